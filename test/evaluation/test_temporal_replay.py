"""A network that remembers, over a recording: the same every time, and forgetful where it must."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bev_perception.memory import Recollection
from bev_perception.model import checkpoint
from bev_perception.model.config import AttentionConfig
from bev_perception.occupancy import to_cells
from bev_perception.predictor import Predictor
from bev_perception.preprocess import decode_size_px
from bev_training import messages
from bev_training.data.bag_inputs import BagSource
from bev_training.data.convert import convert_bag
from bev_training.data.drives import Drive
from bev_training.replay import Replay, find_input, replay
from test.data.small_bag import SmallDrive, changed, write_bag, write_entries
from test.evaluation.test_replay import CONFIG, SETTINGS, cells_of, grids_of, run
from test.factories import make_camera, write_checkpoint

ATTENTION = AttentionConfig(layers=1, heads=2, points=2, hidden=16, temporal=True)


@pytest.fixture(scope='module')
def temporal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('weights')
    config = replace(CONFIG, network='bevformer', attention=ATTENTION)
    return write_checkpoint(folder / 'temporal.safetensors', config)


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bag(tmp_path_factory.mktemp('bags') / 'monday', seconds=0.5)


def done(bag: Path, weights: Path, out: Path, **settings) -> Replay:
    return replay(
        find_input(bag),
        checkpoint.load(weights),
        out,
        settings=replace(SETTINGS, **settings),
        device='cpu',
    )


def test_every_set_is_seen_with_the_memory_of_the_one_before(temporal, bag, tmp_path) -> None:
    said = done(bag, temporal, tmp_path / 'grids')
    assert said.sets == 5
    assert said.notes == ('Memory of the set before: used for 4 of 5 sets',)
    convert_bag(BagSource(name='bag', path=bag), tmp_path / 'frames', SETTINGS)
    drive, grids = Drive(tmp_path / 'frames'), grids_of(tmp_path / 'grids')
    predictor, recollection = (
        Predictor(checkpoint.load(temporal).model, device='cpu'),
        Recollection(),
    )
    differ = []
    for i in range(len(drive)):
        view_set = drive.view_set(i, at_least_px=decode_size_px(CONFIG))
        now = drive.whereabouts(i)
        assert now.stamp_ns == view_set.stamp_ns
        np.testing.assert_array_equal(now.odom_T_ego, view_set.odom_T_ego)
        found = predictor(view_set, recollection.before(now))
        recollection.keep(found.memory, now)
        layer = to_cells(found.classes, found.valid)[0]
        grid = grids[view_set.stamp_ns][CONFIG.classes[0]]
        np.testing.assert_array_equal(cells_of(grid), layer)
        alone = predictor(view_set)
        differ.append((to_cells(alone.classes, alone.valid)[0] != layer).mean())
    assert differ[0] == 0 and min(differ[1:]) > 0.05


def test_the_same_recording_gives_the_same_bytes(temporal, bag, tmp_path, capsys) -> None:
    for out in ('one', 'other'):
        run(bag, temporal, '--out', tmp_path / out)
    printed = capsys.readouterr().out
    assert 'Memory of the set before: used for 4 of 5 sets' in printed
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / out / 'grids').iterdir()}
        for out in ('one', 'other')
    )
    assert len(one) == 2 and one == other
    described = json.loads((tmp_path / 'one' / 'replay.json').read_text())
    assert described['notes'] == ['Memory of the set before: used for 4 of 5 sets']


def test_without_odometry_it_runs_without_memory_and_says_so(temporal, bag, tmp_path) -> None:
    said = done(bag, temporal, tmp_path / 'grids', odom_frame='')
    assert said.sets == 5
    (note,) = said.notes
    assert note.startswith('No odometry: the network ran without its memory') and '\n' not in note


def test_a_camera_that_is_calibrated_anew_ends_the_memory(temporal, tmp_path) -> None:
    drive = SmallDrive(seconds=0.6, lidar=False)
    entries, stamp = [], drive.start_ns + 290_000_000
    for entry in drive.entries():
        if entry.topic == '/camera/front/camera_info' and entry.time_ns > stamp:
            info = messages.camera_info(
                'front_optical', entry.time_ns, make_camera(drive.size_px, fov_deg=60)
            )
            entry = changed(entry, data=info)
        entries.append(entry)
    said = done(write_entries(tmp_path / 'bag', entries), temporal, tmp_path / 'grids')
    assert said.sets == 6
    assert said.notes == (
        'Memory of the set before: used for 4 of 6 sets; given up: calibration 1',
    )


def test_a_gap_ends_the_memory(temporal, tmp_path) -> None:
    drive = SmallDrive(seconds=2.4, hz=5, lidar=False)
    lost = [(name, number) for name in drive.cameras for number in range(2, 10)]
    entries = replace(drive, drop=lost).entries()
    said = done(write_entries(tmp_path / 'bag', entries), temporal, tmp_path / 'grids')
    assert said.sets == 4
    assert said.notes == ('Memory of the set before: used for 2 of 4 sets; given up: gap 1',)


def test_other_networks_say_nothing_of_a_memory(bag, tmp_path) -> None:
    weights = write_checkpoint(tmp_path / 'tiny.safetensors')
    assert done(bag, weights, tmp_path / 'grids').notes == ()
