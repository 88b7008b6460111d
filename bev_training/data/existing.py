"""What an output holds before a conversion begins: what is kept, done anew or somebody else's."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bev_perception.errors import BagError
from bev_training.data import (
    drive_folder,
    drive_manifest,
    drive_writer,
    nuscenes_export,
    nuscenes_files,
)
from bev_training.data.bag_inputs import BagSource, fingerprint
from bev_training.data.drive_manifest import MANIFEST, read_manifest
from bev_training.data.nuscenes_files import read_scene
from bev_training.data.nuscenes_merge import VERSION, finished_scenes
from bev_training.data.paths import inside, is_local
from bev_training.data.privacy import source_sha256
from bev_training.data.settings import ConvertConfig
from bev_training.data.summary import DriveSummary
from bev_training.folders import entries

_REPORTS = ('.html', '.png')  # may lie beside the drives
_NUSCENES = ('maps', 'samples', 'scenes', 'sweeps', VERSION)
_Prints = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Existing:
    """What is to be done, and what not. All by the names that the recordings have in this call.

    Attributes:
        kept: drives that are there, whatever their own names.
        to_do: recordings to convert, with the names of their drives.
        broken: names of drives to remove before that: some of their files were lost.
        failed: why a recording cannot be converted, in one line.
    """

    kept: Mapping[str, DriveSummary]
    to_do: Mapping[str, BagSource]
    broken: Sequence[str]
    failed: Mapping[str, str]


def look_at(
    out: Path,
    sources: Sequence[BagSource],
    fingerprints: _Prints,
    config: ConvertConfig,
    format: str,
) -> Existing:
    """Find what is done already, and make sure that nothing of others is in an output.

    Results from other recordings are welcome where they have the same settings: outputs grow. A
    recording is known by its fingerprint, since its name can depend on what else is converted.

    Args:
        out: the output.
        sources: the recordings that are to be converted.
        fingerprints: theirs, by name.
        config: the settings; their privacy function has been loaded.
        format: 'drive' or 'nuscenes'.

    Raises:
        BagError: something else is there, or a result of other settings or of another version of
            the format.
        OSError: it cannot be read.
    """
    manifests = _scenes(out) if format == 'nuscenes' else _drives(out)
    for name, manifest in manifests.items():
        reason = other_settings(manifest, config)
        if reason is not None:
            raise BagError(f'{out / name}: {reason}; choose another OUT')
    drives = _drives_of(sources, fingerprints, manifests)
    kept: dict[str, DriveSummary] = {}
    to_do: dict[str, BagSource] = {}
    failed: dict[str, str] = {}
    broken = []
    missing = nuscenes_files.lost_files(out, manifests) if format == 'nuscenes' else {}
    for source in sources:
        name = source.name
        if name not in drives and name not in manifests:
            to_do[name] = source
        elif name not in drives:
            reason = other_recording(manifests[name], fingerprints[name])
            failed[name] = f'{out / name}: {reason}; rename this one, or choose another OUT'
        else:
            name = drives[name]
            if format == 'nuscenes':
                lost, others = missing.get(name), []
            else:
                lost = _lost(out / name, manifests[name])
                others = [] if lost is None else drive_folder.listed(out / name)[1]
            if lost is None:
                kept[source.name] = _summary(out, name, manifests[name], format)
            elif others:
                failed[source.name] = f'{lost}; {others[0]} is in the way of doing it anew'
            else:
                broken.append(name)
                to_do[source.name] = replace(source, name=name)
    return Existing(kept=kept, to_do=to_do, broken=tuple(broken), failed=failed)


def finished(
    out: Path, source: BagSource, config: ConvertConfig, format: str
) -> DriveSummary | None:
    """Return what somebody else has made of a recording since `look_at`; None where nothing.

    Raises:
        BagError: it is of other settings or another recording.
    """
    name = source.name
    manifest = read_scene(out, name) if format == 'nuscenes' else read_manifest(out / name)
    if manifest is None:
        return None
    reason = other_settings(manifest, config) or other_recording(manifest, fingerprint(source))
    if reason is not None:
        raise BagError(f'{out / name}: {reason}')
    return _summary(out, name, manifest, format)


def other_settings(manifest: Mapping[str, Any], config: ConvertConfig) -> str | None:
    """Return how the settings of what was written differ from those now.

    A privacy function is the same where its name and its file's contents are, wherever that is.

    Args:
        manifest: of a drive, or of a recording in nuScenes' format.
        config: the settings now.

    Returns:
        The first difference with both values, in words; None where there is none.
    """
    facts = manifest.get('facts', manifest)
    was, now = facts.get('settings'), config.as_json()
    if not isinstance(was, dict):
        return 'its manifest holds no settings'
    images = facts.get('images')
    hashed = images.get('privacy_sha256', '') if isinstance(images, dict) else ''
    here = source_sha256(config.privacy) if config.privacy else ''
    if hashed != here and was.get('privacy') == now['privacy']:
        return f'the file of the privacy function {config.privacy} has changed'
    if here and hashed == here and _function(was.get('privacy')) == _function(now['privacy']):
        now['privacy'] = was['privacy']
    for name in (*now, *sorted(set(was) - set(now))):
        if name not in was or name not in now or was[name] != now[name]:
            before, after = (_shown(values, name) for values in (was, now))
            return f'{name} was {before}, and is {after} now'
    return None


def _function(privacy: object) -> str:
    return str(privacy).rpartition(':')[2]


def other_recording(manifest: Mapping[str, Any], print_: Mapping[str, Any]) -> str | None:
    """Return in words what tells that something was made from another recording than this.

    Args:
        manifest: of a drive, or of a recording in nuScenes' format.
        print_: fingerprint of the recording.
    """
    source = manifest.get('facts', manifest).get('source')
    for name, value in print_.items():
        if not isinstance(source, dict) or source.get(name) != value:
            return f'it was made from another recording of this name ({name} differs)'
    return None


def _shown(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name]) if name in values else 'unknown'


def _drives_of(
    sources: Sequence[BagSource], prints: _Prints, manifests: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Return by recording the name of the drive that was made of it: its own, or another that no
    recording of this call bears (of two copies of one file, each has its own drive).
    """
    own = {
        s.name: s.name
        for s in sources
        if s.name in manifests and other_recording(manifests[s.name], prints[s.name]) is None
    }
    free = defaultdict(list)
    for name, manifest in manifests.items():
        source = manifest.get('facts', manifest).get('source')
        if name not in own and isinstance(source, dict):
            free[str(source.get('fingerprint'))].append(name)
    for source in sources:
        names = free[str(prints[source.name]['fingerprint'])]
        if source.name not in own and names:
            own[source.name] = names.pop(0)
    return own


def _summary(out: Path, name: str, manifest: Mapping[str, Any], format: str) -> DriveSummary:
    if format == 'drive':
        return drive_manifest.summary_of(out / name, manifest)
    summary = nuscenes_export.read_summary(out, name)
    assert summary is not None  # its manifest is there
    return summary


def summary_of(out: Path, name: str, format: str) -> DriveSummary | None:
    """Return a result that is whole; None where it is not.

    Raises:
        BagError: its manifest is damaged.
    """
    if format == 'nuscenes':
        return nuscenes_export.read_summary(out, name)
    return drive_writer.read_summary(out / name)


def remove_unfinished(out: Path, name: str, format: str) -> None:
    """Remove what a process that was killed has left; what is whole stays.

    Raises:
        OSError: it cannot be removed.
    """
    if format == 'nuscenes':
        nuscenes_files.remove_unfinished(out, name)
    elif not (out / name / MANIFEST).exists():
        drive_folder.clear(out / name)


def _drives(out: Path) -> dict[str, Mapping[str, Any]]:
    """Return the manifests of the drives in a folder, where nothing but drives may be."""
    found = {}
    for path in _visible(out):
        manifest = _manifest(path) if not is_local(path) or path.is_dir() else None
        if manifest is not None:
            found[path.name] = manifest
        elif not path.is_dir() or drive_folder.listed(path)[1]:
            raise _foreign(out, path.name)
    return found


def _manifest(drive: Path) -> Mapping[str, Any] | None:
    try:
        return read_manifest(drive)
    except BagError as error:
        raise BagError(f'{error} (remove {drive} first, or choose another OUT)') from error


def _lost(drive: Path, manifest: Mapping[str, Any]) -> str | None:
    """Return which of a drive's files is not as its manifest says: after a power cut, what was
    written last may be missing although the manifest is there.
    """
    there = drive_folder.sizes(drive)
    for file in manifest['files']:
        size = there.get(file['name'])
        if size != file['size_bytes']:
            has = 'is missing' if size is None else f'has {size} bytes'
            said = f'{MANIFEST} says {file["size_bytes"]} bytes'
            return f'{drive / file["name"]} {has}, {said}'
    return None


def _scenes(out: Path) -> dict[str, Mapping[str, Any]]:
    """Return the manifests of the recordings in a data set of our making."""
    names = [path.name for path in _visible(out)]
    for name in names:
        # A data set from elsewhere has no folder `scenes`; its tables must not be replaced.
        if name not in _NUSCENES or 'scenes' not in names:
            raise _foreign(out, name)
    found: dict[str, Mapping[str, Any]] = {}
    for name in finished_scenes(out):
        found[name] = read_scene(out, name) or {}
    for name, manifest in found.items():
        if manifest.get('format_version') != nuscenes_export.FORMAT:
            raise BagError(f'{out}: {name} is of another version of `bev`; choose another OUT')
    return found


def _visible(out: Path) -> list[Path]:
    """Return what is in an output but for our hidden files and reports."""
    paths = entries(out) if is_local(out) else inside(out)
    return [
        path
        for path in paths
        if path.name[:1] != '.' and not (path.name.endswith(_REPORTS) and path.is_file())
    ]


def _foreign(out: Path, name: str) -> BagError:
    return BagError(
        f'{out} exists and is not empty: it holds {name}, which `bev convert` did not write; '
        'choose another OUT'
    )
