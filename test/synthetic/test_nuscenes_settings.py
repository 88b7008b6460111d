"""Settings of data sets in nuScenes' format, their scenes and samples, and what goes wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bev_perception.errors import BagError, ConfigError
from bev_training.synthetic.nuscenes_format import NuscenesConfig, write_nuscenes
from bev_training.synthetic.nuscenes_format import write as write_module
from bev_training.synthetic.nuscenes_format.config import TRAIN, VAL, plan_scenes
from bev_training.synthetic.nuscenes_format.schedule import plan_shots
from test.synthetic.nuscenes_data import TINY, hashes, small_rig


@pytest.mark.slow
def test_the_number_of_processes_does_not_matter(tmp_path: Path) -> None:
    write_nuscenes(tmp_path / 'one', TINY, workers=1)
    counts: list[int] = []
    write_nuscenes(tmp_path / 'two', TINY, workers=2, progress=counts.append)
    assert sum(counts) == 4
    assert hashes(tmp_path / 'one') == hashes(tmp_path / 'two')
    data = json.loads((tmp_path / 'one/v1.0-mini/sample_data.json').read_text())
    assert len(data) == 2 * 2 * 7


def test_nothing_stays_behind_on_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self, folder: Path, *_: object) -> None:
            (folder / 'half').write_text('done')

        def write(self, *_: object, **__: object) -> None:
            raise OSError(28, 'No space left on device')

    monkeypatch.setattr(write_module, 'SceneWriter', Failing)
    with pytest.raises(BagError, match='No space left'):
        write_nuscenes(tmp_path / 'data', TINY, workers=1)
    assert not list(tmp_path.iterdir())


def test_folders_with_content_are_refused(tmp_path: Path) -> None:
    (tmp_path / 'mine.txt').write_text('keep')
    with pytest.raises(BagError, match='is not an empty folder'):
        write_nuscenes(tmp_path, TINY, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']


def test_rigs_that_the_format_cannot_hold_are_refused() -> None:
    rig = small_rig()
    with pytest.raises(ConfigError, match='has no lidar'):
        NuscenesConfig(rig=replace(rig, lidar=None))
    first = rig.cameras[0]
    bent = replace(first.camera, model='plumb_bob', D=(-0.1, 0.01, 0.0, 0.0, 0.0))
    cameras = (replace(first, camera=bent), *rig.cameras[1:])
    with pytest.raises(ConfigError, match=r"'front_left'.*plumb_bob.*undistorted"):
        NuscenesConfig(rig=replace(rig, cameras=cameras))
    with pytest.raises(ConfigError, match='camera_hz 1 '):
        NuscenesConfig(rig=replace(rig, camera_hz=1))


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        *(('scenes', 0), ('scenes', 1000), ('towns', 0), ('towns', 5), ('seed', -1)),
        *(('seconds', 0.0), ('seconds', float('nan')), ('seconds', 301.0)),
        *(('speed_mps', -1.0), ('speed_mps', 26.0), ('size_px', (8, 8)), ('weather', 'snow')),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f'^{field.removesuffix("_px")} is '):
        NuscenesConfig(**{field: value})


def test_ten_scenes_are_nuscenes_mini() -> None:
    splits = pytest.importorskip('nuscenes.utils.splits', reason='needs requirements/nuscenes.txt')

    plans = plan_scenes(NuscenesConfig(scenes=10, towns=3))
    assert sorted(p.name for p in plans if p.split == TRAIN) == sorted(splits.mini_train)
    assert sorted(p.name for p in plans if p.split == VAL) == sorted(splits.mini_val)
    assert {p.town for p in plans if p.split == VAL} == {2}
    assert {p.town for p in plans if p.split == TRAIN} == {0, 1}
    assert sum(p.draws_map for p in plans) == 3
    assert len({p.seed for p in plans}) == 10
    assert len({p.town_seed for p in plans}) == 3


def test_more_scenes_have_names_of_their_own() -> None:
    splits = pytest.importorskip('nuscenes.utils.splits', reason='needs requirements/nuscenes.txt')

    config = NuscenesConfig(scenes=23)
    plans = plan_scenes(config)
    assert config.version == 'v1.0-trainval'
    official = {name for names in splits.create_splits_scenes().values() for name in names}
    assert not official & {p.name for p in plans}
    assert sum(p.split == VAL for p in plans) == 4
    assert not {TRAIN, VAL} & set(splits.create_splits_scenes())
    assert [p.split for p in plan_scenes(NuscenesConfig(scenes=1))] == [TRAIN]


@pytest.mark.parametrize(('lidar_hz', 'camera_hz'), [(20, 12), (10, 10), (15, 30), (5, 4)])
def test_samples_are_half_a_second_apart(lidar_hz: int, camera_hz: int) -> None:
    rig = small_rig()
    assert rig.lidar is not None
    rig = replace(rig, lidar=replace(rig.lidar, hz=lidar_hz), camera_hz=camera_hz)
    samples = plan_shots(rig, 3.0)
    assert len(samples) == 6
    for number, shots in enumerate(samples):
        keys = {shot.channel: shot for shot in shots if shot.is_key}
        assert len(keys) == 7
        assert abs(keys['LIDAR_TOP'].time_s - number / 2) <= 0.5 / lidar_hz + 1e-6
        for shot in keys.values():
            late = 0.0426 if number == 0 else 0.0  # nothing was exposed before the drive
            away = abs(shot.time_s - keys['LIDAR_TOP'].time_s)
            assert away <= max(0.5 / camera_hz, late) + 1e-5
    lidar = [shot for shots in samples for shot in shots if shot.modality == 'lidar']
    assert len(lidar) == 3 * lidar_hz
