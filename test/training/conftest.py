"""A small town in nuScenes' format that several modules read; written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from test.synthetic.nuscenes_data import TINY


@pytest.fixture(scope='session')
def nuscenes_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two scenes of two samples each (`TINY`), each scene in a town of its own."""
    pytest.importorskip('nuscenes', reason='needs requirements/nuscenes.txt')
    from bev_training.synthetic.nuscenes_format import write_nuscenes

    out = tmp_path_factory.mktemp('nuscenes') / 'data'
    write_nuscenes(out, TINY, workers=1)
    return out


@pytest.fixture
def nuscenes_copy(nuscenes_set: Path, tmp_path: Path) -> Path:
    """The same with tables that a test may change; its other files are links."""
    root = tmp_path / 'copy'
    (root / 'v1.0-mini').mkdir(parents=True)
    for path in (nuscenes_set / 'v1.0-mini').iterdir():
        (root / 'v1.0-mini' / path.name).write_bytes(path.read_bytes())
    for name in ('samples', 'maps'):
        (root / name).symlink_to(nuscenes_set / name)
    return root
