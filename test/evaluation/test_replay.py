"""A recording through the node's pipeline in process."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from bev_perception.errors import BagError, BevError, ConfigError
from bev_perception.geometry import rigid
from bev_perception.messages import stamp_ns
from bev_perception.model import checkpoint
from bev_perception.occupancy import combine, grid_origin, to_cells
from bev_perception.predictor import Predictor
from bev_perception.preprocess import decode_size_px
from bev_training import messages
from bev_training.cli_replay import add_replay
from bev_training.data.bag_inputs import BagSource
from bev_training.data.bag_reader import read_messages
from bev_training.data.convert import convert_bag
from bev_training.data.drives import Drive
from bev_training.data.settings import ConvertConfig, KeyFrames
from bev_training.evaluation.drive_truth import DriveTruth
from bev_training.metrics import PooledScores
from bev_training.replay import find_input, replay
from bev_training.synthetic.drive import write_drive
from bev_training.synthetic.stored_truth import load_truth
from test.data.small_bag import SmallDrive, changed, write_bag, write_entries
from test.factories import make_config, write_checkpoint
from test.synthetic.reuse import quick, reuse

CONFIG = make_config()
SETTINGS = ConvertConfig(every=KeyFrames(), max_sweeps=0)


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp('weights') / 'tiny.safetensors')


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six sets of three cameras, one image lost."""
    folder = tmp_path_factory.mktemp('bags') / 'monday'
    return write_bag(folder, seconds=0.6, drop=[('front', 2)])


@pytest.fixture(scope='module')
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A synthetic drive of some frames of one camera."""
    with pytest.MonkeyPatch.context() as patch:
        reuse(patch)
        folder = tmp_path_factory.mktemp('drives') / 'town'
        write_drive(folder, quick(seconds=0.2, image_truth=False))
        yield folder


def run(*words: str | Path) -> None:
    parser = argparse.ArgumentParser(prog='bev')
    add_replay(parser.add_subparsers())
    chosen = parser.parse_args(['replay', *map(str, words), '--device', 'cpu'])
    chosen.run(chosen)


def grids_of(bag: Path) -> dict[int, dict[str, object]]:
    """Recorded grid messages by stamp and class."""
    out: dict[int, dict[str, object]] = {}
    for topic, at_ns, message in read_messages(bag):
        assert topic.startswith('/bev_node/grid/') and stamp_ns(message.header) == at_ns
        out.setdefault(at_ns, {})[topic.rpartition('/')[2]] = message
    return out


def cells_of(message) -> np.ndarray:
    return np.asarray(message.data, np.int8).reshape(message.info.height, message.info.width)


@pytest.mark.parametrize('raw', [False, True], ids=['jpeg', 'raw'])
def test_cells_are_those_of_the_converted_frames(weights, tmp_path, raw) -> None:
    given = SmallDrive(seconds=0.5, size_px=(320, 160), raw=raw, drop=[('front', 1)])
    bag = write_entries(tmp_path / 'bag', given.entries())
    settings = replace(SETTINGS, min_cameras=2)
    source = BagSource(name='bag', path=bag)
    convert_bag(source, tmp_path / 'frames', settings)
    drive = Drive(tmp_path / 'frames')
    loaded = checkpoint.load(weights)
    done = replay(find_input(bag), loaded, tmp_path / 'grids', settings=settings, device='cpu')
    grids = grids_of(tmp_path / 'grids')
    assert done.sets == len(grids) == len(drive) == 5
    assert done.counts['sets_partial'] == 1
    predictor = Predictor(loaded.model, device='cpu')
    seen = []
    for i in range(len(drive)):
        view_set = drive.view_set(i, at_least_px=decode_size_px(CONFIG))
        said = predictor(view_set)
        seen.append(said.valid.mean())
        cells = to_cells(said.classes, said.valid)
        found = grids[view_set.stamp_ns]
        for name, layer in zip(CONFIG.classes, cells, strict=True):
            np.testing.assert_array_equal(cells_of(found[name]), layer)
        vehicle = CONFIG.classes.index('vehicle')
        np.testing.assert_array_equal(cells_of(found['combined']), combine(cells, [vehicle]))
        # the place of the grid, as the node says it
        info = found['vehicle'].info
        assert found['vehicle'].header.frame_id == 'base_link'
        assert (info.width, info.height, info.resolution) == (20, 16, 1.0)
        origin = grid_origin(CONFIG.grid, view_set.base_T_ego)
        at, turn = info.origin.position, info.origin.orientation
        np.testing.assert_array_equal([at.x, at.y, at.z], origin[:3, 3])
        np.testing.assert_array_equal([turn.x, turn.y, turn.z, turn.w], rigid.to_quat_xyzw(origin))
        assert info.map_load_time == found['vehicle'].header.stamp
    assert done.coverage == pytest.approx(np.mean(seen))
    assert len({bytes(cells_of(each['vehicle'])) for each in grids.values()}) == len(grids)


def test_the_same_recording_gives_the_same_bytes(weights, bag, tmp_path, capsys) -> None:
    for out in ('one', 'other'):
        run(bag, weights, '--out', tmp_path / out)
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / out / 'grids').iterdir()}
        for out in ('one', 'other')
    )
    assert len(one) == 2 and one == other
    described = [
        json.loads((tmp_path / out / 'replay.json').read_text()) for out in ('one', 'other')
    ]
    for each in described:
        del each['run']
    assert described[0] == described[1]
    pictures = [(tmp_path / out / 'replay.png').read_bytes() for out in ('one', 'other')]
    assert pictures[0] == pictures[1]


def test_what_it_leaves_behind(weights, bag, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    run(bag, weights)
    out = tmp_path / 'out' / 'replay' / 'monday'
    assert sorted(path.name for path in out.iterdir()) == [
        'grids', 'replay.json', 'replay.png', 'replay.txt',
    ]  # fmt: skip
    assert cv2.imread(str(out / 'replay.png')).std() > 20
    described = json.loads((out / 'replay.json').read_text())
    # the set with the lost image has two of three cameras, and the node would not take it
    assert described['sets'] == 5 and described['scores'] is None
    assert described['no_scores'] == 'no truth beside the recording'
    assert described['counts']['images'] == 17
    assert described['settings']['every'] == 'all'
    printed = capsys.readouterr().out
    assert (
        printed.startswith((out / 'replay.txt').read_text()) and 'No scores: no truth' in printed
    )
    assert printed.splitlines()[-1] == 'Picture: out/replay/monday/replay.png'
    run(bag, weights, '--json', '--every', '0.2s')  # replaces the former
    result = json.loads(capsys.readouterr().out)
    assert result['out'] == 'out/replay/monday' and 2 <= result['sets'] <= 3
    assert json.loads((out / 'replay.json').read_text())['sets'] == result['sets']


def test_a_synthetic_drive_is_scored(weights, synthetic, tmp_path, capsys) -> None:
    run(synthetic, weights, '--out', tmp_path / 'drive')
    assert 'visible' in capsys.readouterr().out
    scores = json.loads((tmp_path / 'drive' / 'replay.json').read_text())['scores']
    grids = grids_of(tmp_path / 'drive' / 'grids')
    assert scores['samples'] == len(grids) == 2
    # The network is of another grid than the stored truth: the town is asked in its grid.
    truth = DriveTruth(synthetic, CONFIG.grid)
    loaded = checkpoint.load(weights)
    predictor = Predictor(loaded.model, device='cpu')
    frames = tmp_path / 'frames'
    convert_bag(BagSource(name='bag', path=synthetic / 'bag'), frames, SETTINGS)
    pooled = PooledScores(CONFIG.classes, CONFIG.grid)
    for i, stamp in enumerate(sorted(grids)):
        said = predictor(Drive(frames).view_set(i, at_least_px=decode_size_px(CONFIG)))
        pooled.update(said.classes, truth.at(stamp, CONFIG.classes), said.valid)
    assert scores == pooled.result().as_json()
    assert scores['classes']['drivable_area']['visible']['positive_cells'] > 50
    run(synthetic / 'bag', weights, '--out', tmp_path / 'bag', '--json')
    assert json.loads(capsys.readouterr().out)['scores'] == scores
    assert find_input(synthetic / 'bag').name == find_input(synthetic).name == 'town'


def test_a_drive_is_known_by_its_own_recording_only(tmp_path) -> None:
    drive = tmp_path / 'town'
    bag = write_bag(drive / 'bag', seconds=0.1)
    (drive / 'drive.json').write_text('{}')
    for path in (drive, bag, next(bag.glob('*.mcap'))):
        found = find_input(path)
        assert found.drive == drive and found.name == 'town'
    write_bag(drive / 'monday', seconds=0.1)  # of which the truth says nothing
    found = find_input(drive / 'monday')
    assert found.drive is None and found.name == 'monday'


def test_the_picture_is_of_the_middle_also_where_stamps_are_of_another_clock(
    weights, tmp_path
) -> None:
    """Bag times may be of the wall clock and stamps of a simulation, or the other way round."""
    entries = SmallDrive(seconds=0.9).entries()
    for number, shift_ns in enumerate((0, 10**15, -(10**15))):
        moved = [changed(entry, time_ns=entry.time_ns + shift_ns) for entry in entries]
        bag, grids = write_entries(tmp_path / f'{number}', moved), tmp_path / f'grids{number}'
        loaded = checkpoint.load(weights)
        done = replay(find_input(bag), loaded, grids, settings=SETTINGS, device='cpu')
        place = sorted(grids_of(grids)).index(done.middle.view_set.stamp_ns)
        assert done.sets == 9 and 3 <= place <= 5


def test_truth_is_the_one_beside_the_bag(synthetic) -> None:
    stored = load_truth(synthetic)
    truth = DriveTruth(synthetic, stored.config.grid)
    stamp = int(stored.stamps_ns[1])
    labels = truth.at(stamp, ('vehicle', 'drivable_area', 'divider'))
    np.testing.assert_array_equal(
        labels.positive[:2], stored.at(stamp, ('vehicle', 'drivable_area'))
    )
    assert labels.classes == ('vehicle', 'drivable_area', 'divider')
    assert labels.hidden[0].any() and not labels.hidden[1:].any()  # one camera sees little
    with pytest.raises(BagError, match='after its start'):
        truth.at(stamp + 10**12, ('vehicle',))


def test_topics_of_other_names_come_from_a_file(weights, tmp_path, capsys) -> None:
    entries = [
        changed(entry, topic=entry.topic.replace('/camera/', '/rig/a_'))
        for entry in SmallDrive(seconds=0.3).entries()
    ]
    entries = [
        changed(entry, topic=entry.topic.replace('/camera_info', '/model')) for entry in entries
    ]
    bag = write_entries(tmp_path / 'bag', entries)
    settings = tmp_path / 'rig.yaml'
    settings.write_text(
        'cameras: [front, front_left, front_right]\n'
        "image_topic: '/rig/a_{camera}/image_raw/compressed'\n"
        "camera_info_topic: '/rig/a_{camera}/model'\n"
        'every: 5m\n'
    )
    run(bag, weights, '--config', settings, '--out', tmp_path / 'out', '--json')
    result = json.loads(capsys.readouterr().out)
    assert result['sets'] == 3 and result['settings']['every'] == 'all'
    assert result['settings']['cameras'] == ['front', 'front_left', 'front_right']
    settings.write_text('camera: [front]\n')
    with pytest.raises(ConfigError, match=r'rig.yaml: .*camera'):
        run(bag, weights, '--config', settings, '--out', tmp_path / 'other')


def test_pictures_without_images_where_a_privacy_function_is_set(
    weights, bag, tmp_path, capsys
) -> None:
    """A replay writes no images through it, so it must not show any."""
    settings = tmp_path / 'rig.yaml'
    settings.write_text("privacy: 'faces:blur'\n")
    run(bag, weights, '--config', settings, '--out', tmp_path / 'blurred')
    run(bag, weights, '--out', tmp_path / 'plain')
    blurred, plain = (
        cv2.imread(str(tmp_path / name / 'replay.png')) for name in ('blurred', 'plain')
    )
    assert blurred.shape[0] < 0.7 * plain.shape[0] and blurred.std() > 10


@pytest.mark.parametrize(
    ('words', 'error', 'said'),
    [
        (('none', 'W'), BagError, 'none does not exist'),
        (('.', 'W'), BagError, r'holds 2 recordings \(one, two \.\.\.\); name one'),
        (('W', 'W'), BagError, 'tiny.safetensors'),
        (('one', 'none'), BevError, 'no weights: .*none does not exist'),
        (('two', 'W'), BevError, 'two.*camera'),
        (
            ('one', 'W', '--out', 'full'),
            BagError,
            'holds mine, which is no result of an earlier replay',
        ),
    ],
)
def test_what_cannot_be_replayed_is_one_line(
    weights, bag, tmp_path, monkeypatch, words, error, said
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'one').symlink_to(bag)
    poses = [e for e in SmallDrive(seconds=0.2).entries() if not e.topic.startswith('/camera')]
    write_entries(tmp_path / 'two', poses)
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine').write_text('')
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(error, match=said) as raised:
        run(*(weights if word == 'W' else word for word in words))
    assert '\n' not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_recording_without_a_whole_set_says_why(weights, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    entries = [
        changed(entry, data=entry.data[:-200]) if entry.type == messages.COMPRESSED else entry
        for entry in SmallDrive(seconds=0.3).entries()
    ]
    write_entries(tmp_path / 'bag', entries)
    with pytest.raises(BevError) as error:
        run('bag', weights)
    assert str(error.value).startswith('bag: ') and '\n' not in str(error.value)
    assert not (tmp_path / 'out').exists()


def test_options_that_make_no_sense_are_wrong_usage(weights, bag) -> None:
    for words in (('--every', 'often'), ('--every', '-2m'), ('--precision', 'int8')):
        with pytest.raises(SystemExit) as stopped:
            run(bag, weights, *words)
        assert stopped.value.code == 2
