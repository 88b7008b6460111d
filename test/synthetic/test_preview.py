"""The contact sheet: read back from a drive's files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from bev_perception.errors import BagError, ConfigError
from bev_perception.pictures import class_color
from bev_training import cli
from bev_training.synthetic.categories import OBJECTS, SEMANTICS, VEHICLES
from bev_training.synthetic.drive import write_drive
from bev_training.synthetic.preview import draw_lidar, draw_preview
from bev_training.synthetic.preview_colors import color_depth, color_semantics
from bev_training.synthetic.preview_data import Shown, image_truth_of, show
from bev_training.synthetic.rig_yaml import load_rig
from bev_training.synthetic.settings import DriveConfig
from bev_training.synthetic.stored_truth import load_truth

from .reuse import reuse

TINY = (160, 90)


@pytest.fixture(scope='module', autouse=True)
def shared_worlds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        reuse(patch)
        yield


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = DriveConfig(seconds=0.25, seed=3, town_seed=3, size_px=TINY, weather='overcast')
    return write_drive(tmp_path_factory.mktemp('preview') / 'drive', config, workers=1).path


@pytest.fixture(scope='module')
def shown(made: Path) -> Shown:
    return show(made, load_truth(made), [1])[0]


def has_color(picture: np.ndarray, rgb: tuple[int, int, int], pixels: int) -> bool:
    close = np.abs(picture[..., ::-1].astype(int) - rgb).max(-1) <= 3
    return int(close.sum()) >= pixels


def test_a_drive(made: Path) -> None:
    path = draw_preview(made)
    assert path == made / 'preview.png'
    picture = cv2.imread(str(path))
    assert picture.shape[1] == 1600 and 1200 < picture.shape[0] < 2400
    assert picture.std() > 30
    drivable = class_color('drivable_area', 0)
    assert has_color(picture, drivable, 5000), 'no class grid'
    front = cv2.imread(str(path))[60:400, :1100]
    assert front.std() > 30, 'no images'


def test_rows_and_image_truth_make_it_taller(made: Path, tmp_path: Path) -> None:
    heights = [
        cv2.imread(str(draw_preview(made, out=tmp_path / f'{n}.png', frames=n))).shape[0]
        for n in (1, 3)
    ]
    assert heights[1] - heights[0] == pytest.approx(2 * 368, abs=3)
    with pytest.raises(ConfigError, match='frames is 0'):
        draw_preview(made, frames=0)


def test_points_lie_in_boxes_and_on_the_ground(shown: Shown, made: Path) -> None:
    """What is shown together belongs together: bag, its transforms and the truth."""
    assert shown.points_ego is not None
    near = np.linalg.norm(shown.points_ego[:, :2], axis=1) < 8
    assert abs(np.median(shown.points_ego[near, 2])) < 0.25
    above = shown.points_ego[shown.points_ego[:, 2] > 0.4, :2]
    hit = 0
    for corners, category in zip(shown.corners_ego, shown.category, strict=True):
        if OBJECTS[int(category)] not in VEHICLES or np.linalg.norm(corners.mean(0)) > 40:
            continue
        middle = corners.mean(0)
        grown = (middle + (corners - middle) * 1.05).astype(np.float32)
        local = above[np.linalg.norm(above - middle, axis=1) < 8]
        inside = [cv2.pointPolygonTest(grown, p.astype(float).tolist(), False) > 0 for p in local]
        hit += sum(inside) >= 5
    assert hit >= 2
    grid = load_truth(made).config.grid
    picture = draw_lidar(shown, grid)
    assert picture.shape == (400, 400, 3)
    assert (picture.max(-1) > 60).mean() > 0.02


def test_boxes_cover_the_vehicle_grid(shown: Shown, made: Path) -> None:
    truth = load_truth(made)
    layer = shown.grids[truth.classes.index('vehicle')]
    centers = truth.config.grid.cell_centers()
    covered = np.zeros(layer.shape, bool)
    for corners, category in zip(shown.corners_ego, shown.category, strict=True):
        if OBJECTS[int(category)] in VEHICLES:
            ahead = np.roll(corners, -1, axis=0) - corners
            away = centers[..., None, :] - corners
            turn = ahead[:, 0] * away[..., 1] - ahead[:, 1] * away[..., 0]
            covered |= (turn > 0).all(-1)
    assert layer.sum() > 20
    assert (covered == layer).mean() > 0.9995


def test_semantics_and_depth(made: Path, shown: Shown) -> None:
    found = image_truth_of(made, shown)
    assert list(found) == list(shown.images)
    semantics, depth = found['front']
    road = semantics == SEMANTICS.index('road')
    assert road.any() and (depth[road] > 1).all()
    assert color_semantics(semantics).shape == (90, 160, 3)
    shades = color_depth(depth)
    assert not shades[depth == 0].any() and shades[road].max(-1).min() > 50
    (made / 'truth' / 'depth' / 'front' / f'{shown.image_stamps_ns["front"]}.png').rename(
        made / 'away.png'
    )
    try:
        with pytest.raises(BagError, match=r'\.png cannot be read'):
            image_truth_of(made, shown)
    finally:
        (made / 'away.png').rename(
            made / 'truth' / 'depth' / 'front' / f'{shown.image_stamps_ns["front"]}.png'
        )


def test_other_rigs_and_folders_of_drives(made: Path, repository: Path, tmp_path: Path) -> None:
    rig = load_rig(repository / 'config' / 'rigs' / 'four_fisheyes.yaml', (120, 90))
    config = DriveConfig(seconds=0.25, seed=3, town_seed=3, rig=rig, weather='overcast')
    bare = replace(config, image_truth=False, rig=replace(rig, lidar=None))
    write_drive(tmp_path / 'both' / 'a', config, workers=1)
    write_drive(tmp_path / 'both' / 'b', bare, workers=1)
    picture = cv2.imread(str(draw_preview(tmp_path / 'both' / 'a', frames=1)))
    assert picture.std() > 20
    both = cv2.imread(str(draw_preview(tmp_path / 'both', out=tmp_path / 'both.png')))
    assert both.shape[0] == pytest.approx(picture.shape[0] + 368, abs=3)
    assert load_truth(tmp_path / 'both' / 'a').config.rig_or_default().cameras[0].camera == (
        rig.cameras[0].camera
    )


def test_what_is_no_drive(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['preview', str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith('bev preview: ') and error.count('\n') == 1 and 'drive' in error
    (tmp_path / 'file').write_text('')
    with pytest.raises(BagError, match='cannot be written'):
        draw_preview(made, out=tmp_path / 'file' / 'x.png', frames=1)


def test_command_line(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / 'new' / 'sheet.png'
    assert cli.main(['preview', str(made), '--out', str(out), '--frames', '1']) == 0
    assert capsys.readouterr().out == f'Picture: {out}\n'
    assert out.stat().st_size > 50_000


def test_rerun_is_optional(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, 'rerun', None)
    words = ['preview', str(made), '--out', str(tmp_path / 'x.png'), '--frames', '1']
    assert cli.main([*words, '--rerun', str(tmp_path / 'x.rrd')]) == 1
    printed = capsys.readouterr()
    assert 'pip install rerun-sdk' in printed.err and printed.err.count('\n') == 1
    assert not printed.out and not list(tmp_path.iterdir())  # before anything is drawn


def test_rerun_takes_one_drive(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ['preview', str(made.parent), '--out', str(tmp_path / 'x.png')]
    assert cli.main([*words, '--rerun', str(tmp_path / 'x.rrd')]) == 1
    printed = capsys.readouterr()
    assert printed.err == f'bev preview: --rerun takes one drive; {made.parent} holds several\n'
    assert not printed.out and not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['x.jpg', 'x', 'x.pdf'])
def test_pictures_are_png(
    name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(['preview', str(made), '--out', str(tmp_path / name)]) == 1
    assert capsys.readouterr().err == f'bev preview: {tmp_path / name} must end in .png\n'
    assert not list(tmp_path.iterdir())


def test_a_data_set_in_nuscenes_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'v1.0-mini').mkdir()
    (tmp_path / 'v1.0-mini' / 'scene.json').write_text('[]')
    assert cli.main(['preview', str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "nuScenes' format" in error and '--format bag' in error and error.count('\n') == 1


def test_drawing_leaves_the_callers_matplotlib_alone() -> None:
    """In a process of its own: this one may have chosen a backend already."""
    program = (
        'import matplotlib; matplotlib.use("svg")\n'
        'import bev_training.picture, bev_training.synthetic.preview\n'
        'assert matplotlib.get_backend() == "svg", matplotlib.get_backend()'
    )
    subprocess.run([sys.executable, '-c', program], check=True)


def test_rerun(made: Path, tmp_path: Path) -> None:
    pytest.importorskip('rerun', reason='rerun-sdk is not installed')
    from bev_training.synthetic.preview_rerun import write_rerun

    write_rerun(made, tmp_path / 'x.rrd')
    assert (tmp_path / 'x.rrd').stat().st_size > 100_000
