"""Writes the scenes of a data set in nuScenes' format as recordings, so that they can be replayed.

    OUT/<scene>/    rosbag2 (mcap), in topics, frames and delays like our synthetic recordings

    /camera/<name>/image_raw/compressed   the file's bytes; CAM_FRONT_LEFT is front_left
    /camera/<name>/camera_info            before each image
    /lidar/points                         LIDAR_TOP; LIDAR_X is /lidar/x/points
    /tf, /odom                            odom -> base_link at every ego pose; odom is its map
    /tf_static                            map -> odom (the same), base_link -> sensors

nuScenes corrects a sweep for the vehicle's motion and stamps it with its end.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bev_perception.errors import BagError
from bev_training.data.locks import output_lock
from bev_training.data.nuscenes_bag import check_scene, write_scene_bag
from bev_training.data.nuscenes_reader import (
    Measured,
    SceneContent,
    Scenes,
    scene_names,
    tables_of,
)
from bev_training.data.nuscenes_source import NOTE, is_done, source_of
from bev_training.data.paths import is_local, sync_folder

_Say = Callable[[str], None]
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no other scene can be written either
_SHOWN = 5  # of the scenes that failed


def write_bags(
    dataroot: Path,
    out: Path,
    *,
    version: str | None = None,
    scenes: Sequence[str] | None = None,
    progress: Callable[[int], None] = lambda files: None,
    total: Callable[[int], None] = lambda files: None,
    say: _Say = lambda text: None,
) -> list[Path]:
    """Write a recording per scene. Each appears whole, or not; one that fails stops no other.

    A recording that is there is kept where it was made from the same records and files; one that
    was cut short is made anew; any other one is a failure of that scene, and stays as it is.

    Args:
        dataroot: folder of the data set.
        out: folder that takes the recordings.
        version: name of the folder of tables; None takes the only one.
        scenes: names; None takes all that have files.
        progress: called with the number of files just written.
        total: called once with the number of files that will be written.
        say: called with a line about what is left out.

    Returns:
        The folders of the scenes' recordings, also of those that were there.

    Raises:
        BagError: tables are missing or damaged, or a scene is unknown; the output is in use or
            cannot be written; or, at the end, some scenes failed: damaged files, or a folder that
            holds something else.
    """
    if not is_local(out):
        raise BagError(f'{out}: recordings are written to a local folder only')
    folder = tables_of(dataroot, version)
    names = list(dict.fromkeys(scene_names(folder) if scenes is None else scenes))
    targets = _targets(out, names)
    failed: dict[str, str] = {}
    with output_lock(out, say):  # it removes what killed runs have left
        tables = Scenes(folder, names)
        todo: dict[str, int] = {}
        empty = set()
        for name in names:
            with _failing(name, failed):
                scene, sizes, _ = _present(tables.content(name), dataroot)
                if scene.measured:
                    check_scene(scene)
                    if not is_done(targets[name], source_of(scene, folder.name, sizes)):
                        todo[name] = len(scene.measured)
                    continue
                empty.add(name)
                if scenes is not None:
                    raise BagError(f'{dataroot} has no file of scene {name!r}')
        total(sum(todo.values()))
        for name in todo:
            with _failing(name, failed):
                scene, sizes, missing = _present(tables.content(name), dataroot)
                _say_what_is_left_out(scene, missing, say)
                notes = {NOTE: source_of(scene, folder.name, sizes)}
                _write(targets[name], dataroot, scene, notes, progress)
    if failed:
        raise BagError(_failures(failed, len(names)))
    return [targets[name] for name in names if name not in empty]


def _targets(out: Path, names: Sequence[str]) -> dict[str, Path]:
    """Return the folder of each scene."""
    targets: dict[str, Path] = {}
    for name in names:
        safe = re.sub(r'[^\w.+-]', '_', name).lstrip('.') or '_'
        if out / safe in targets.values():
            raise BagError(f'two scenes would be called {out / safe}')
        targets[name] = out / safe
    return targets


@contextmanager
def _failing(name: str, failed: dict[str, str]) -> Iterator[None]:
    """Note in one line why a scene fails; it must not end the work on hundreds of others.

    Raises:
        BagError: nothing can be written any more.
    """
    try:
        yield
    except BagError as error:
        failed[name] = str(error)
    except OSError as error:
        reason = f'{error.filename}: {error.strerror}' if error.filename else str(error)
        if error.errno in _HOPELESS:
            raise BagError(f'{name}: {reason}') from error
        failed[name] = reason
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f'{Path(last.filename).name}:{last.lineno}'
        failed[name] = f'unexpected {type(error).__name__} in {where}: {error}'


def _failures(failed: dict[str, str], scenes: int) -> str:
    """Return one line about the scenes that failed."""
    said = [f'{name}: {reason}' for name, reason in failed.items()]
    if len(said) > 1:
        said[0] = f'{len(said)} of {scenes} scenes failed: {said[0]}'
    if len(said) > _SHOWN:
        rest = list(failed)[_SHOWN:]
        said[_SHOWN:] = [f'and {", ".join(rest)}']
    return ' '.join('; '.join(said).split())


def _present(scene: SceneContent, dataroot: Path) -> tuple[SceneContent, list[int], list[str]]:
    """Return a scene with what has a file, each once; sizes of the files; files that are missing.

    Raises:
        OSError: a folder cannot be read.
    """
    found: dict[tuple[str, int], Measured] = {}
    sizes: list[int] = []
    missing = []
    for each in scene.measured:
        path = dataroot / each.file
        if not path.is_file():
            missing.append(each.file)
        elif found.setdefault((each.sensor.channel, each.time_us), each) is each:
            sizes.append(path.stat().st_size)
    return replace(scene, measured=list(found.values())), sizes, missing


def _say_what_is_left_out(scene: SceneContent, missing: list[str], say: _Say) -> None:
    if missing:
        say(f'{scene.name}: {len(missing)} files are missing, the first is {missing[0]}')
    if scene.left_out:
        counts = ', '.join(f'{channel} {n}' for channel, n in sorted(scene.left_out.items()))
        say(f'{scene.name}: left out (radar, or not valid): {counts}')


def _write(
    target: Path,
    dataroot: Path,
    scene: SceneContent,
    notes: dict[str, str],
    progress: Callable[[int], None],
) -> None:
    """Write the recording of a scene next to its place, bring it to the disk, move it there."""
    work = target.with_name(f'.{target.name}.unfinished')  # as `folders.remove_killed` knows it
    bag = work / target.name
    try:
        work.mkdir()
        write_scene_bag(bag, dataroot, scene, notes, progress)
        for path in bag.iterdir():
            with path.open('rb') as file:
                os.fsync(file.fileno())
        sync_folder(bag)
        if target.exists():  # empty, or cut short
            shutil.rmtree(target)
        bag.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        if error.filename is None:  # of a file that is open, as when the disk is full
            error.filename = str(target)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
