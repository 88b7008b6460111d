"""Recordings and drives → what is wrong with them, and the page that shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bev_perception.errors import BagError, BevError
from bev_training.data.bag_inputs import BagSource, find_bags
from bev_training.data.drives import find_drives, unfinished_drives
from bev_training.data.paths import write_whole
from bev_training.data.settings import ConvertConfig
from bev_training.inspection.bag_measurements import measure_bag
from bev_training.inspection.bag_rules import bag_findings
from bev_training.inspection.drive_measurements import measure_drive
from bev_training.inspection.drive_rules import drive_findings
from bev_training.inspection.facts import bag_facts, drive_facts
from bev_training.inspection.findings import Finding, Subject
from bev_training.inspection.report_html import html_report

Progress = Callable[[str, float], None]


def inspect_paths(
    paths: Sequence[Path],
    config: ConvertConfig | None = None,
    *,
    quick: bool = False,
    plots: bool = False,
    progress: Progress = lambda path, share: None,
) -> list[Subject]:
    """Look at recordings and converted drives.

    Args:
        paths: recordings, drives, and folders of either.
        config: how recordings would be converted; None: with the defaults.
        quick: the first minute of recordings, and no contents of drives.
        plots: also draw.
        progress: called with what is looked at and the share of it that is done, 0..1.

    Returns:
        One per recording and drive. What cannot be read is one with an error.
    """
    config = config or ConvertConfig()
    subjects = []
    for path in paths:
        for one in _found_at(path):
            if isinstance(one, Subject):
                subjects.append(one)
            elif isinstance(one, BagSource):
                subjects.append(_bag(one, config, quick=quick, plots=plots, progress=progress))
            else:
                subjects.append(_drive(one, quick=quick, plots=plots, progress=progress))
    return subjects


def write_report(path: Path, folders: Sequence[Path]) -> None:
    """Look at converted drives and write an HTML page about them.

    Args:
        path: of the page.
        folders: of the drives.

    Raises:
        BagError: the page cannot be written.
    """
    write_page(path, inspect_paths(folders, plots=True))


def write_page(path: Path, subjects: Sequence[Subject]) -> None:
    """Write an HTML page about what was looked at.

    Raises:
        BagError: it cannot be written.
    """
    try:
        write_whole(path, html_report(subjects).encode())
    except OSError as error:
        raise BagError(f'{path} cannot be written: {error.strerror or error}') from error


def _found_at(path: Path) -> Sequence[BagSource | Path | Subject]:
    """Return the drives at a path or, where there is none, its recordings."""
    try:
        unfinished = unfinished_drives(path)
        drives = find_drives(path) if _holds_drives(path) else []
    except BagError as error:
        return [_unreadable(path, 'drive', error)]
    broken = [
        _unreadable(one, 'drive', BagError(f'{one} is unfinished: run the same bev convert again'))
        for one in unfinished
    ]
    if drives or broken:
        return [*drives, *broken]
    try:
        return find_bags([path])
    except BagError as error:
        tables = _nuscenes_tables(path)
        if tables is None:
            return [_unreadable(path, 'recording', error)]
    root = tables.parent
    problem = BagError(
        'a set in the format of nuScenes is not inspected: look at its recordings (or '
        f'`bev convert {root} BAGS --from nuscenes`, then `bev inspect BAGS`)'
    )
    return [_unreadable(path, 'drive', problem)]


def _nuscenes_tables(path: Path) -> Path | None:
    """Return the folder with the tables of a nuScenes set: a path, or the first in it."""
    try:
        folders = [path, *sorted(path.iterdir())]
        return next((f for f in folders if (f / 'sample_data.json').is_file()), None)
    except OSError:
        return None


def _holds_drives(path: Path) -> bool:
    try:
        find_drives(path)
    except BagError:
        return False
    return True


def _unreadable(path: Path, kind: str, error: BevError) -> Subject:
    rule = 'BAG001' if kind == 'recording' else 'DRV001'
    finding = Finding(rule=rule, subject=str(path), where='', text=str(error))
    if kind == 'recording':
        return Subject(path=str(path), kind='recording', facts={}, findings=(finding,))
    return Subject(path=str(path), kind='drive', facts={}, findings=(finding,))


def _bag(
    source: BagSource, config: ConvertConfig, *, quick: bool, plots: bool, progress: Progress
) -> Subject:
    def report(share: float) -> None:
        progress(str(source.path), share)

    try:
        measured = measure_bag(source, config, quick=quick, progress=report)
    except BagError as error:
        return _unreadable(source.path, 'recording', error)
    drawn: dict[str, bytes] = {}
    if plots:
        from bev_training.inspection.bag_plots import bag_plots

        drawn = bag_plots(measured)
    return Subject(
        path=str(source.path),
        kind='recording',
        facts=bag_facts(measured),
        findings=bag_findings(measured),
        plots=drawn,
    )


def _drive(folder: Path, *, quick: bool, plots: bool, progress: Progress) -> Subject:
    def report(share: float) -> None:
        progress(str(folder), share)

    try:
        measured = measure_drive(folder, quick=quick, progress=report)
    except BagError as error:
        return _unreadable(folder, 'drive', error)
    drawn: dict[str, bytes] = {}
    if plots:
        from bev_training.inspection.drive_plots import drive_plots

        drawn = drive_plots(measured)
    return Subject(
        path=str(folder),
        kind='drive',
        facts=drive_facts(measured),
        findings=drive_findings(measured),
        plots=drawn,
    )
