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

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from bev_perception.errors import BagError
from bev_training.data.locks import output_lock
from bev_training.data.nuscenes_bag import write_scene_bag
from bev_training.data.nuscenes_reader import (
    EgoPose,
    Measured,
    SceneContent,
    read_scenes,
    scene_names,
    tables_of,
)
from bev_training.data.paths import is_local

_Say = Callable[[str], None]


def write_bags(
    dataroot: Path,
    out: Path,
    *,
    version: str | None = None,
    scenes: Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
    total: Callable[[int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write a recording per scene. Those that are there are kept; each appears whole, or not.

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
        BagError: tables, scenes or all files of a wanted scene are missing or damaged; or the
            output is in use, holds something else or cannot be written.
    """
    if not is_local(out):
        raise BagError(f'{out}: recordings are written to a local folder only')
    tell: _Say = say or (lambda text: None)
    folder = tables_of(dataroot, version)
    names = list(dict.fromkeys(scene_names(folder) if scenes is None else scenes))
    targets = _targets(out, names)
    with output_lock(out):
        missing = [name for name in names if not (targets[name] / 'metadata.yaml').is_file()]
        contents, poses = read_scenes(folder, missing) if missing else ([], {})
        for scene in contents:
            _check_free(targets[scene.name])
            _drop_missing(scene, dataroot, tell)
            if not scene.measured and scenes is not None:
                raise BagError(f'{dataroot} has no file of scene {scene.name!r}')
        (total or (lambda files: None))(sum(len(scene.measured) for scene in contents))
        empty = {scene.name for scene in contents if not scene.measured}
        for scene in contents:
            if scene.name not in empty:
                _write(targets[scene.name], dataroot, scene, poses, progress)
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


def _check_free(target: Path) -> None:
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise BagError(f'{target} exists and is no recording')


def _drop_missing(scene: SceneContent, dataroot: Path, say: _Say) -> None:
    """Keep what has a file, each once; say what is left out."""
    found: dict[tuple[str, int], Measured] = {}
    missing = []
    for each in scene.measured:
        if (dataroot / each.file).is_file():
            found.setdefault((each.sensor.channel, each.time_us), each)
        else:
            missing.append(each.file)
    scene.measured = list(found.values())
    if missing:
        say(f'{scene.name}: {len(missing)} files are missing, the first is {missing[0]}')
    if scene.left_out:
        counts = ', '.join(f'{channel} {n}' for channel, n in sorted(scene.left_out.items()))
        say(f'{scene.name}: left out (radar, or not valid): {counts}')


def _write(
    target: Path,
    dataroot: Path,
    scene: SceneContent,
    poses: dict[str, EgoPose],
    progress: Callable[[int], None] | None,
) -> None:
    """Write the recording of a scene next to its place, then move it there."""
    work = target.with_name(f'.{target.name}.unfinished')
    try:
        shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
        work.mkdir(parents=True)
        write_scene_bag(work / target.name, dataroot, scene, poses, progress)
        (work / target.name).rename(target)
    except OSError as error:
        where = error.filename or target
        raise BagError(f'{where}: {error.strerror or error}') from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
