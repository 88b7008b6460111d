"""Written drives: the bag, the truth beside it, and what happens when they cannot be written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from bev_perception.errors import BagError, ConfigError
from bev_perception.geometry.camera import Camera
from bev_perception.messages import (
    read_camera,
    read_image,
    read_points,
    read_pose,
    read_transforms,
    stamp_ns,
)
from bev_perception.transforms import TransformTree
from bev_training import messages
from bev_training.data.bag_reader import read_messages
from bev_training.synthetic import bag
from bev_training.synthetic.drive import DriveConfig, DriveSummary, load_truth, write_drive
from bev_training.synthetic.drives import write_drives
from bev_training.synthetic.frames import exposure_times_s, render_frame
from bev_training.synthetic.rig import nuscenes_rig

from .reuse import TINY, few_cameras, quick, renderer_of, reuse, scene_of

K = ((110.0, 0.0, 79.3), (0.0, 112.0, 44.6), (0.0, 0.0, 1.0))


# A second and a bit, so that there are two slices.
CONFIG = DriveConfig(
    seconds=1.2,
    seed=3,
    town_seed=3,
    rig=few_cameras(nuscenes_rig(TINY), 'front_left', 'front', 'back'),
    weather='clear',
    jitter_s=0.002,
)


@pytest.fixture(scope='module', autouse=True)
def shared_worlds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        reuse(patch)
        yield


@pytest.fixture(scope='module')
def written_ns() -> list[int]:
    """Bag times of the shared drive in the order of writing."""
    return []


@pytest.fixture(scope='module')
def summary(tmp_path_factory: pytest.TempPathFactory, written_ns: list[int]) -> DriveSummary:
    write = bag.Writer.write

    def spy(writer: bag.Writer, connection: Any, time_ns: int, data: Any) -> None:
        written_ns.append(time_ns)
        write(writer, connection, time_ns, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bag.Writer, 'write', spy)
        return write_drive(tmp_path_factory.mktemp('synthetic') / 'drive', CONFIG, workers=1)


@pytest.fixture(scope='module')
def made(summary: DriveSummary) -> Path:
    return summary.path


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


# The bag


def test_summary_counts_what_is_there(summary: DriveSummary) -> None:
    assert (summary.frames, summary.images, summary.sweeps) == (14, 14 * 3, 24)
    with AnyReader([summary.path / 'bag']) as reader:
        assert summary.messages == reader.message_count
    files = [p for p in summary.path.rglob('*') if p.is_file()]
    assert summary.size_bytes == sum(p.stat().st_size for p in files)
    assert summary.weather == 'clear'


def test_bag_is_complete_and_in_order(made: Path) -> None:
    rig, world = CONFIG.rig_or_default(), CONFIG.world()
    tree = TransformTree(history_s=10.0)
    times: list[int] = []
    stamps: dict[str, list[int]] = {}
    images: dict[tuple[str, int], tuple[int, int]] = {}
    cameras = {}
    for topic, time_ns, message in read_messages(made / 'bag'):
        times.append(time_ns)
        if topic in ('/tf', '/tf_static'):
            for transform in read_transforms(message):
                tree.push(transform, static=topic == '/tf_static')
            continue
        stamp = stamp_ns(message.header)
        stamps.setdefault(topic, []).append(stamp)
        assert stamp <= time_ns
        if topic.endswith('compressed'):
            images[message.header.frame_id, stamp] = read_image(message).shape[1::-1]
        elif topic.endswith('camera_info'):
            camera = read_camera(message, name='x', rectified=False)
            cameras[message.header.frame_id, stamp] = camera
        elif topic == '/odom':
            time_s = (stamp - CONFIG.epoch_ns) / 1e9
            found = read_pose(message).parent_T_child
            assert np.abs(found - world.odom_T_base(time_s)).max() < 1e-9
    assert all(values == sorted(set(values)) for values in stamps.values())
    counts = {topic: len(values) for topic, values in stamps.items()}
    assert counts['/lidar/points'] == 24
    for camera in rig.cameras:
        assert counts[f'/camera/{camera.name}/image_raw/compressed'] == 14
    assert images.keys() == cameras.keys()
    for (frame_id, stamp), size in images.items():
        own = next(c for c in rig.cameras if c.frame_id == frame_id)
        assert size == TINY
        assert cameras[frame_id, stamp] == own.camera
        time_s = (stamp - CONFIG.epoch_ns) / 1e9
        for parent, parent_T_base in (
            ('odom', world.odom_T_base(time_s)),
            ('map', world.map_T_base(time_s)),
        ):
            expected = parent_T_base @ own.base_T_cam
            found = tree.lookup(parent, frame_id, stamp)
            assert np.abs(found[:3, 3] - expected[:3, 3]).max() < 1e-3
            assert np.abs(found[:3, :3] - expected[:3, :3]).max() < 2e-4
    for stamp in stamps['/lidar/points']:
        assert tree.lookup('map', 'lidar', stamp).shape == (4, 4)
    assert np.array_equal(load_truth(made).stamps_ns, stamps['/camera/front/camera_info'])


def test_messages_are_written_in_the_order_of_their_times(
    made: Path, written_ns: list[int]
) -> None:
    """Also across the border of slices: some players read the file from front to back."""
    assert len(written_ns) > 200
    assert written_ns == sorted(written_ns)


@pytest.mark.parametrize(
    'camera',
    [
        Camera(K=np.array(K), size_px=TINY),
        Camera(K=np.array(K), size_px=TINY, model='plumb_bob', D=(-0.2, 0.05, 1e-3, -2e-3, 0.01)),
        Camera(
            K=np.array(K),
            size_px=TINY,
            model='rational_polynomial',
            D=(0.3, 0.1, 1e-3, -2e-3, 0.01, 0.5, 0.2, 0.02),
        ),
        Camera(K=np.array(K), size_px=TINY, model='equidistant', D=(0.02, -0.004, 1e-3, -1e-4)),
        Camera(K=np.array(K), size_px=TINY, model='equidistant', D=(0.0, 0.0, 0.0, 0.0)),
    ],
    ids=['pinhole', 'plumb_bob', 'rational_polynomial', 'equidistant', 'ideal_fisheye'],
)
def test_camera_info_gives_the_same_camera(camera: Camera) -> None:
    data = messages.camera_info('lens', 17, camera)
    message = messages.TYPESTORE.deserialize_cdr(data, messages.CAMERA_INFO)
    assert read_camera(message, name='x', rectified=False) == camera
    assert message.distortion_model == ('plumb_bob' if camera.model == 'pinhole' else camera.model)
    assert np.array_equal(np.reshape(message.p, (3, 4))[:, :3], camera.K)


def test_lidar_message_and_qos(made: Path) -> None:
    with AnyReader([made / 'bag']) as reader:
        kept = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
        connection = [c for c in reader.connections if c.topic == '/lidar/points']
        _, _, data = next(reader.messages(connection))
        message = reader.deserialize(data, connection[0].msgtype)
    assert kept['/tf_static'].durability.name == 'TRANSIENT_LOCAL'
    assert kept['/tf'].reliability.name == 'RELIABLE'
    assert kept['/camera/front/image_raw/compressed'].reliability.name == 'BEST_EFFORT'
    assert [(f.name, f.offset) for f in message.fields] == [
        ('x', 0), ('y', 4), ('z', 8), ('intensity', 12), ('ring', 16),
    ]  # fmt: skip
    assert len(message.data) == message.width * message.point_step == message.row_step
    assert message.width > 5000
    assert np.isfinite(read_points(message)['x']).all()


def test_lidar_noise_differs_from_turn_to_turn(tmp_path: Path) -> None:
    """Of a standing vehicle: the same beams meet mostly the same things."""
    made = write_drive(tmp_path / 'x', quick(speed_mps=0.0), workers=1).path
    first, second = (read_points(m) for _, _, m in read_messages(made / 'bag', ['/lidar/points']))
    count = min(len(first['x']), len(second['x']))
    assert not np.array_equal(first['x'][:count], second['x'][:count])


def test_raw_images_are_the_rendered_ones(tmp_path: Path) -> None:
    config = quick(raw=True)
    write_drive(tmp_path / 'raw', config, workers=1)
    found = list(read_messages(tmp_path / 'raw' / 'bag', ['/camera/front/image_raw']))
    assert len(found) == 1
    rig, world = config.rig_or_default(), config.world()
    frame = render_frame(
        renderer_of(scene_of(world)),
        rig,
        exposure_times_s(rig, 0, seed=config.seed),
        noise_seed=(0,),
    )
    assert np.array_equal(read_image(found[0][2]), frame.images['front'])


def test_a_rig_without_lidar_has_no_points(tmp_path: Path) -> None:
    rig = replace(few_cameras(nuscenes_rig(TINY), 'back'), lidar=None, camera_hz=20, name='one')
    done = write_drive(tmp_path / 'x', quick(rig=rig), workers=1)
    topics = {topic for topic, _, _ in read_messages(done.path / 'bag')}
    assert '/lidar/points' not in topics and '/camera/back/camera_info' in topics
    assert (done.frames, done.images, done.sweeps) == (2, 2, 0)
    stamps = load_truth(done.path).stamps_ns
    assert np.diff(stamps).tolist() == [50_000_000]


# Truth


def test_stored_truth_is_the_worlds(made: Path) -> None:
    stored, world = load_truth(made), CONFIG.world()
    assert stored.grids.shape[0] == 14 and stored.grids.shape[2:] == (200, 200)
    assert stored.config.as_json() == CONFIG.as_json()
    assert stored.weather == 'clear'
    for frame in (0, 13):
        time_s = (int(stored.stamps_ns[frame]) - CONFIG.epoch_ns) / 1e9
        assert np.allclose(stored.odom_T_base[frame], world.odom_T_base(time_s), atol=1e-12)
        boxes, own = stored.boxes(frame), world.boxes(time_s)
        assert len(boxes.actor) > 3
        at = np.searchsorted(own.actor, boxes.actor)
        assert np.array_equal(own.actor[at], boxes.actor)
        assert np.array_equal(own.category[at], boxes.category)
        assert np.array_equal(own.parked[at], boxes.parked)
        assert np.allclose(own.map_T_box[at], boxes.map_T_box, atol=1e-4)
        assert np.allclose(own.size_m[at], boxes.size_m, atol=1e-5)
        assert np.allclose(own.velocity_mps[at], boxes.velocity_mps, atol=1e-4)


def test_truth_at_any_stamp(made: Path) -> None:
    stored = load_truth(made)
    first, second = stored.stamps_ns[:2].tolist()
    vehicles = stored.classes.index('vehicle')
    assert np.array_equal(stored.at(first, ['vehicle'])[0], stored.grids[0, vehicles])
    between = stored.at((first + second) // 2)
    assert between.shape == stored.grids[0].shape
    assert 0 < (between ^ stored.grids[0]).mean() < 0.05
    with pytest.raises(BagError, match='no class'):
        stored.at(first, ['tram'])
    with pytest.raises(BagError, match='after the start'):
        stored.at(first + 10**12)


def test_jitter_moves_exposures() -> None:
    rig = CONFIG.rig_or_default()
    exact, shaken = exposure_times_s(rig, 5), exposure_times_s(rig, 5, jitter_s=0.003)
    gaps = np.array([shaken[name] - exact[name] for name in exact])
    assert 0 < np.abs(gaps).max() <= 0.003 + 1e-6


def test_semantics_and_depth_are_the_rendered_ones(made: Path) -> None:
    rig = CONFIG.rig_or_default()
    renderer = renderer_of(scene_of(CONFIG.world()))
    times = exposure_times_s(rig, 5, seed=CONFIG.seed, jitter_s=CONFIG.jitter_s)
    frame = render_frame(renderer, rig, times, noise_seed=(5,))
    for camera in ('front', 'back'):
        file = f'{camera}/{CONFIG.stamp_ns(times[camera])}.png'
        semantics = cv2.imread(str(made / 'truth' / 'semantics' / file), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(semantics, frame.semantics[camera])
        depth = cv2.imread(str(made / 'truth' / 'depth' / file), cv2.IMREAD_UNCHANGED)
        assert depth.dtype == np.uint16
        near = (frame.depth_m[camera] > 0) & (frame.depth_m[camera] < 255)
        assert 0.3 < near.mean() < 1
        assert np.abs(depth[near] / 256 - frame.depth_m[camera][near]).max() <= 1 / 512 + 1e-6
        assert not depth[~near].any()
    for camera in rig.cameras:
        for kind in ('semantics', 'depth'):
            assert len(list((made / 'truth' / kind / camera.name).iterdir())) == 14


def test_without_image_truth(tmp_path: Path) -> None:
    write_drive(tmp_path / 'x', quick(image_truth=False), workers=1)
    assert set(digest(tmp_path / 'x')) == {
        'bag/bag.mcap', 'bag/metadata.yaml', 'drive.json', 'truth.npz',
    }  # fmt: skip


# The same and other drives


def test_same_settings_same_bytes_whatever_the_workers(made: Path, tmp_path: Path) -> None:
    write_drive(tmp_path / 'two', CONFIG, workers=2)
    assert digest(made) == digest(tmp_path / 'two')


def test_again_the_same_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (('one', 3), ('again', 3), ('other', 4)):
        write_drive(tmp_path / name, quick(seed=seed), workers=1)
    one, again, other = (digest(tmp_path / name) for name in ('one', 'again', 'other'))
    assert one == again
    # the semantics' stamps are in their names, and no byte of anything else is the same
    assert not set(one.values()) & set(other.values())


def test_settings_are_read_back(tmp_path: Path) -> None:
    config = quick(jitter_s=0.001)
    write_drive(tmp_path / 'x', config, workers=1)
    assert config.is_of(tmp_path / 'x')
    assert not replace(config, seed=1).is_of(tmp_path / 'x')
    assert not config.is_of(tmp_path)
    described = json.loads((tmp_path / 'x' / 'drive.json').read_text())
    again = DriveConfig.from_json(described)
    assert again.as_json() == config.as_json()
    assert again.rig_or_default().cameras[0].camera == config.rig_or_default().cameras[0].camera
    assert described['settings']['size_px'] is None  # the rig has its own
    assert again.rig is not None
    plain = DriveConfig(size_px=(320, 180))
    back = DriveConfig.from_json(plain.as_json())
    assert plain.as_json()['settings']['size_px'] == [320, 180] and back.rig is None
    assert back.as_json() == plain.as_json()
    del described['settings']['size_px']
    with pytest.raises(ConfigError, match='size_px'):
        DriveConfig.from_json(described)


@pytest.mark.parametrize('workers', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_several_drives(workers: int, tmp_path: Path) -> None:
    frames: list[int] = []
    config = quick(image_truth=False)
    done = write_drives(tmp_path / 'out', config, 2, workers=workers, progress=frames.append)
    assert [one.path.name for one in done] == ['drive-0000', 'drive-0001']
    assert sum(frames) == 2
    for number, one in enumerate(done):
        assert replace(config, seed=3 + number).is_of(one.path)
    with pytest.raises(BagError, match='is not an empty folder'):
        write_drives(tmp_path / 'out', config, 1)
