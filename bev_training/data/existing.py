"""What an output holds before a conversion begins: what is kept, done anew or somebody else's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bev_perception.errors import BagError
from bev_training.data import drive_folder, drive_writer, nuscenes_export
from bev_training.data.bag_inputs import BagSource
from bev_training.data.drive_manifest import MANIFEST, read_manifest
from bev_training.data.nuscenes_files import read_scene, remove_recording, tables_folder
from bev_training.data.nuscenes_merge import VERSION, finished_scenes
from bev_training.data.paths import is_local
from bev_training.data.settings import ConvertConfig
from bev_training.data.summary import DriveSummary
from bev_training.folders import entries

_REPORTS = ('.html', '.png')  # may lie beside the drives
_NUSCENES = ('maps', 'samples', 'scenes', 'sweeps', VERSION)
_Prints = Mapping[str, Mapping[str, Any]]


def same_conversion(
    manifest: Mapping[str, Any], fingerprint: Mapping[str, Any] | None, config: ConvertConfig
) -> str | None:
    """Return what differs between what was written and what would be written now.

    Args:
        manifest: of a drive, or of a recording in nuScenes' format.
        fingerprint: of the recording that bears its name now; None does not compare it.
        config: the settings now.

    Returns:
        The first difference with both values, in words; None where there is none.
    """
    facts = manifest.get('facts', manifest)
    was, now = facts.get('settings'), config.as_json()
    if not isinstance(was, dict):
        return 'its manifest holds no settings'
    for name in (*now, *sorted(set(was) - set(now))):
        if name not in was or name not in now or was[name] != now[name]:
            there, here = (_shown(values, name) for values in (was, now))
            return f'{name} was {there}, and is {here} now'
    if fingerprint is not None:
        source = facts.get('source')
        for name, value in fingerprint.items():
            if not isinstance(source, dict) or source.get(name) != value:
                return f'it was made from another recording of this name ({name} differs)'
    return None


def _shown(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name]) if name in values else 'unknown'


def kept(
    out: Path,
    sources: Sequence[BagSource],
    fingerprints: _Prints,
    config: ConvertConfig,
    format: str,
) -> dict[str, DriveSummary]:
    """Find what is done already, and make sure that nothing of others is in an output.

    Results from other recordings are welcome where they have the same settings: outputs grow.

    Args:
        out: the output.
        sources: the recordings that are to be converted.
        fingerprints: theirs, by name.
        config: the settings.
        format: 'drive' or 'nuscenes'.

    Returns:
        Summaries by name, of those recordings that are done.

    Raises:
        BagError: something else is there, or a result of other settings, another recording or
            another version of the format.
    """
    manifests = _scenes(out) if format == 'nuscenes' else _drives(out)
    for name, manifest in manifests.items():
        reason = same_conversion(manifest, fingerprints.get(name), config)
        if reason is not None:
            raise BagError(f'{out / name}: {reason}; choose another OUT')
    found = {}
    for source in sources:
        if source.name in manifests:
            summary = summary_of(out, source.name, format)
            if summary is not None:
                found[source.name] = summary
    return found


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
        if read_scene(out, name) is None and tables_folder(out, name).exists():
            remove_recording(out, name)
    elif not (out / name / MANIFEST).exists():
        drive_folder.clear(out / name)


def _drives(out: Path) -> dict[str, Mapping[str, Any]]:
    """Return the manifests of the drives in a folder, where nothing but drives may be."""
    found = {}
    for path in _visible(out):
        manifest = _manifest(path) if path.is_dir() else None
        if manifest is not None:
            _check_sizes(path, manifest)
            found[path.name] = manifest
        elif not path.is_dir() or drive_folder.listed(path)[1]:
            raise _foreign(out, path.name)
    return found


def _manifest(drive: Path) -> Mapping[str, Any] | None:
    try:
        return read_manifest(drive)
    except BagError as error:
        raise BagError(f'{error} (remove {drive} first, or choose another OUT)') from error


def _check_sizes(drive: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a drive whose files are not those that its manifest names: after a power cut, what
    was written last may be missing although the manifest is there.
    """
    for file in manifest['files']:
        path = drive / file['name']
        size = path.stat().st_size if path.is_file() else None
        if size != file['size_bytes']:
            has = 'is missing' if size is None else f'has {size} bytes'
            raise BagError(
                f'{path} {has}, {MANIFEST} says {file["size_bytes"]} bytes; remove {drive} and '
                'run this again'
            )


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
    if is_local(out):
        paths = entries(out)
    else:
        paths = sorted(out.iterdir()) if out.exists() else []
    return [p for p in paths if p.name[:1] != '.' and not p.name.endswith(_REPORTS)]


def _foreign(out: Path, name: str) -> BagError:
    return BagError(
        f'{out} exists and is not empty: it holds {name}, which `bev convert` did not write; '
        'choose another OUT'
    )
