"""The synthetic drive: exact geometry, truth, the bag and what happens when it cannot be made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from bev_perception.errors import BagError, BevError, ConfigError
from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.messages import read_camera, read_image, read_transforms, stamp_ns
from bev_perception.transforms import TransformTree
from bev_training import cli
from bev_training.data.bag_reader import read_messages
from bev_training.synthetic import drive, truth
from bev_training.synthetic.drive import DriveConfig, load_truth, write_drive
from bev_training.synthetic.frames import exposure_times_s, render_frame
from bev_training.synthetic.lidar import sweep
from bev_training.synthetic.ordering import far_to_near
from bev_training.synthetic.render import Renderer
from bev_training.synthetic.rig import Rig, nuscenes_rig
from bev_training.synthetic.world import World, make_world

SMALL = (320, 180)
CAMERAS = ('front_left', 'front', 'front_right', 'back_left', 'back', 'back_right')


@pytest.fixture(scope='module')
def world() -> World:
    return make_world(seed=3, seconds=2.0)


@pytest.fixture(scope='module')
def rig() -> Rig:
    return nuscenes_rig((800, 450))


@pytest.fixture(scope='module')
def renderer(world: World) -> Renderer:
    return Renderer(world)


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('synthetic') / 'drive'
    write_drive(out, DriveConfig(seconds=1.0, size_px=SMALL), workers=1)
    return out


# Images


def test_objects_are_drawn_inside_their_boxes(world: World, rig: Rig, renderer: Renderer) -> None:
    time_s, drawn = 1.0, 0
    poses = world.poses(time_s)
    for camera in rig.cameras:
        odom_T_cam = world.odom_T_base(time_s) @ camera.base_T_cam
        shown = renderer.identities(camera.camera, odom_T_cam, time_s)
        for index in set(np.unique(shown).tolist()) - {-1}:
            length, width, height = world.actors[index].shape.size_m
            corners = np.array(
                [(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (0, 1)]
            ) * (length, width, height)
            x, y, yaw = poses[index]
            c, s = np.cos(yaw), np.sin(yaw)
            odom = corners @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + (x, y, 0)
            cam = rigid.transform_points(rigid.inverse(odom_T_cam), odom)
            if cam[:, 2].min() < 0.5:
                continue
            uv, _ = camera.camera.project(cam)
            hull = cv2.convexHull(uv.astype(np.float32))
            rows, columns = np.nonzero(shown == index)
            outside = [
                -cv2.pointPolygonTest(hull, (float(u), float(v)), True)
                for u, v in list(zip(columns, rows, strict=True))[:: max(1, len(rows) // 200)]
            ]
            assert max(outside) < 1.0, (camera.name, index)
            drawn += 1
    assert drawn > 30


def test_a_free_box_fills_its_projection(world: World, rig: Rig, renderer: Renderer) -> None:
    """The nearest vehicles touch all four sides of the rectangle around their own corners."""
    camera = rig.cameras[1]
    odom_T_cam = world.odom_T_base(0.5) @ camera.base_T_cam
    shown = renderer.identities(camera.camera, odom_T_cam, 0.5)
    poses, checked = world.poses(0.5), 0
    for index, actor in enumerate(world.actors):
        rows, columns = np.nonzero(shown == index)
        if actor.kind != 'vehicle' or len(rows) < 400 or (columns == 0).any():
            continue
        x, y, yaw = poses[index]
        c, s = np.cos(yaw), np.sin(yaw)
        points = actor.shape.faces.reshape(-1, 3) @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        cam = rigid.transform_points(rigid.inverse(odom_T_cam), points + (x, y, 0))
        uv, valid = camera.camera.project(cam)
        if not valid.all():
            continue
        low = (columns.min(), rows.min()) - uv.min(0)
        high = (columns.max(), rows.max()) - uv.max(0)
        checked += bool((np.abs(low) < 1.0).all() and (np.abs(high) < 1.0).all())
    assert checked >= 1


def test_paint_lands_where_the_camera_projects_it(
    world: World, rig: Rig, renderer: Renderer
) -> None:
    """Edges of crosswalks, found by brightness, lie within a pixel of their projection."""
    errors_px = []
    for camera, time_s in [(c, t) for c in rig.cameras for t in (0.0, 1.0)]:
        odom_T_cam = world.odom_T_base(time_s) @ camera.base_T_cam
        cam_T_odom = rigid.inverse(odom_T_cam)
        image = renderer.image(camera.camera, odom_T_cam, time_s)[..., 2].astype(float)
        covered = renderer.identities(camera.camera, odom_T_cam, time_s) >= 0
        covered = cv2.dilate(covered.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        for paint in world.paints:
            size = np.linalg.norm(np.diff(paint.polygon[[0, 1, 2]], axis=0), axis=1)
            if size.min() < 0.35:
                continue
            middle = paint.polygon.mean(0)
            for i in range(4):  # over each edge, from outside to inside
                edge = paint.polygon[[i, (i + 1) % 4]].mean(0)
                inward = (middle - edge) / np.linalg.norm(middle - edge)
                steps = np.linspace(-0.16, 0.16, 65)
                odom = np.c_[edge + steps[:, None] * inward, np.zeros(65)]
                uv, valid = camera.camera.project(rigid.transform_points(cam_T_odom, odom))
                span = np.linalg.norm(uv[-1] - uv[0])
                if not valid.all() or span < 6:
                    continue
                at = uv.astype(np.float32)[:, None]
                if cv2.remap(covered.astype(np.uint8), at, None, cv2.INTER_NEAREST).any():
                    continue
                profile = cv2.remap(image, at, None, cv2.INTER_LINEAR)[:, 0]
                dark, bright = profile[:8].mean(), profile[-8:].mean()
                if bright < dark + 50:
                    continue  # in a shadow's edge
                crossing = np.argmax(profile > (dark + bright) / 2) - 31.5
                errors_px.append(crossing * span / 64)
    assert len(errors_px) > 50
    assert np.abs(errors_px).max() < 1.0
    assert abs(np.mean(errors_px)) < 0.3


def test_half_size_images_show_the_same(world: World, renderer: Renderer) -> None:
    full, half = nuscenes_rig((800, 450)).cameras[4], nuscenes_rig((400, 225)).cameras[4]
    pose = world.odom_T_base(0.3) @ full.base_T_cam
    large = renderer.image(full.camera, pose, 0.3)
    small = renderer.image(half.camera, pose, 0.3)
    shrunk = cv2.resize(large, (400, 225), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - small).mean() < 4


def test_sky_is_above_the_horizon_and_ground_below(
    world: World, rig: Rig, renderer: Renderer
) -> None:
    for camera in rig.cameras:
        pose = world.odom_T_base(0.2) @ camera.base_T_cam
        image = renderer._backdrop(camera.camera, pose).astype(int)
        assert (image[0, :, 2] > image[0, :, 0] + 20).all()
        assert (image[-1, :, 2] < image[-1, :, 0] + 20).all()


def test_the_order_of_painting_depends_on_what_hides_what_not_on_distance() -> None:
    # A long wall whose middle is nearer to the eye than the box that stands before its far end.
    poses = np.array([[10.0, 8.0, 0.0], [27.0, 3.0, 0.0]])
    sizes = np.array([[40.0, 2.0], [4.0, 2.0]])
    assert far_to_near(poses, sizes, np.array([0.0, 0.0])).tolist() == [0, 1]
    assert far_to_near(poses, sizes, np.array([0.0, 30.0])).tolist() == [1, 0]


def test_frames_in_memory(world: World, rig: Rig, renderer: Renderer) -> None:
    frame = render_frame(world, rig, exposure_times_s(rig, 6), renderer=renderer)
    assert tuple(frame.images) == CAMERAS
    assert all(image.shape == (450, 800, 3) for image in frame.images.values())
    spread = max(frame.times_s.values()) - min(frame.times_s.values())
    assert spread == pytest.approx(0.0426)
    assert frame.grids.shape == (3, 200, 200)
    assert frame.truth_time_s == frame.times_s['front']


def test_jitter_moves_exposures(rig: Rig) -> None:
    exact, shaken = exposure_times_s(rig, 5), exposure_times_s(rig, 5, jitter_s=0.003)
    gaps = np.array([shaken[name] - exact[name] for name in exact])
    assert 0 < np.abs(gaps).max() <= 0.003


# Lidar


def test_lidar_points_lie_on_surfaces(world: World, rig: Rig) -> None:
    time_s = 1.0
    pose = world.odom_T_base(time_s)
    points = sweep(world, rig.lidar, pose, time_s)
    assert len(points) > 15_000
    points = points[::9]
    xyz = np.stack([points[k] for k in 'xyz'], -1).astype(float)
    odom = rigid.transform_points(pose @ rig.lidar.base_T_lidar, xyz)
    distance = np.abs(odom[:, 2])
    for actor, (x, y, yaw) in zip(world.actors, world.poses(time_s), strict=True):
        c, s = np.cos(yaw), np.sin(yaw)
        local = (odom - (x, y, 0)) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        for normals, offsets in actor.shape.half_spaces:
            depth = (local @ normals.T - offsets).max(1)  # signed; exact beside a face
            assert depth.min() > -0.03, 'a point inside a solid'
            distance = np.minimum(distance, np.abs(depth))
    assert distance.max() < 0.03
    assert (np.abs(odom[:, 2]) > 0.3).sum() > 100
    elevation = np.arcsin(xyz[:, 2] / np.linalg.norm(xyz, axis=1))
    assert np.allclose(elevation, rig.lidar.elevations_rad[points['ring']], atol=1e-5)


# Truth


def inside(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Point in polygon by the sum of signed angles, for (N, 2) points."""
    a = polygon[None] - points[:, None]
    b = np.roll(polygon, -1, axis=0)[None] - points[:, None]
    cross = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return np.abs(np.arctan2(cross, (a * b).sum(-1)).sum(1)) > np.pi


@pytest.mark.parametrize(
    'grid',
    [
        BevGrid(x_range_m=(-20.0, 30.0), y_range_m=(-15.0, 15.0), cell_m=1.0),
        BevGrid(x_range_m=(2.0, 12.0), y_range_m=(-9.0, 3.0), cell_m=0.5),
    ],
    ids=['around', 'ahead'],
)
def test_grids_equal_brute_force(world: World, grid: BevGrid) -> None:
    time_s = 1.2
    pose = world.odom_T_base(time_s)
    grids = truth.class_grids(world, grid, pose, time_s)
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    c, s = np.cos(yaw), np.sin(yaw)
    centers = grid.cell_centers().reshape(-1, 2) @ np.array([[c, s], [-s, c]]) + pose[:2, 3]
    half = truth.divider_half_width_m(grid)
    in_odom = {
        'drivable_area': world.roads,
        'lane_divider': [truth.band(line, half) for line in world.dividers],
        'vehicle': [truth.footprint(box) for box in world.vehicles(time_s)],
    }
    for layer, name in zip(grids, truth.CLASSES, strict=True):
        expected = np.zeros(len(centers), bool)
        for polygon in in_odom[name]:
            near = np.abs(polygon - pose[:2, 3]).min() < 80
            if near:
                expected |= inside(polygon, centers)
        assert (layer.reshape(-1) == expected).all(), name
        assert 0 < expected.mean() < 1


def test_truth_is_level_while_the_vehicle_sways(world: World) -> None:
    grid, pose = BevGrid(), world.odom_T_base(1.0)
    assert np.abs(pose[2, :2]).max() > 1e-3  # it does sway
    flat = pose @ rigid.level(pose)
    assert (
        truth.class_grids(world, grid, pose, 1.0) == truth.class_grids(world, grid, flat, 1.0)
    ).all()


def test_moving_vehicles_do_not_meet(world: World) -> None:
    for time_s in (0.0, 1.0, 2.0):
        grids = [truth.footprint(box) for box in world.vehicles(time_s)]
        for i, one in enumerate(grids):
            for other in grids[:i]:
                if np.linalg.norm(one.mean(0) - other.mean(0)) < 12:
                    area, _ = cv2.intersectConvexConvex(
                        one.astype(np.float32), other.astype(np.float32)
                    )
                    assert area < 1e-3


def test_stored_truth(made: Path, world: World) -> None:
    stored = load_truth(made)
    assert stored.grids.shape == (12, 3, 200, 200)
    assert stored.config == DriveConfig(seconds=1.0, size_px=SMALL)
    again = stored.at(int(stored.stamps_ns[4]), ['vehicle'])
    assert (again[0] == stored.grids[4, 2]).all()
    between = stored.at(int(stored.stamps_ns[4]) + 20_000_000)
    assert 0 < (between ^ stored.grids[4]).mean() < 0.05
    own = stored.config.world()
    time_s = (int(stored.stamps_ns[4]) - stored.config.epoch_ns) / 1e9
    assert np.allclose(stored.vehicles[4], own.vehicles(time_s))
    assert np.allclose(stored.odom_T_base[4], own.odom_T_base(time_s))
    with pytest.raises(BagError, match='no class'):
        stored.at(int(stored.stamps_ns[0]), ['pedestrian'])
    with pytest.raises(BagError, match='after the start'):
        stored.at(int(stored.stamps_ns[0]) + 10**12)


# The bag


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def test_same_settings_same_bytes_whatever_the_workers(made: Path, tmp_path: Path) -> None:
    config = DriveConfig(seconds=1.2, size_px=(160, 90), jitter_s=0.002)
    write_drive(tmp_path / 'one', config, workers=1)
    write_drive(tmp_path / 'two', config, workers=2)
    assert digest(tmp_path / 'one') == digest(tmp_path / 'two')
    assert set(digest(made)) == {
        'bag/bag.mcap', 'bag/metadata.yaml', 'drive.json', 'truth.npz',
    }  # fmt: skip


def test_another_seed_is_another_drive(made: Path, tmp_path: Path) -> None:
    other = DriveConfig(seconds=1.0, size_px=SMALL, seed=1)
    write_drive(tmp_path / 'other', other, workers=1)
    one, two = digest(made), digest(tmp_path / 'other')
    assert all(one[name] != two[name] for name in one)
    assert other.is_of(tmp_path / 'other') and not other.is_of(made)


def test_bag_is_complete_and_in_order(made: Path) -> None:
    config = DriveConfig(seconds=1.0, size_px=SMALL)
    rig, world = config.rig(), config.world()
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
    assert times == sorted(times)
    assert all(values == sorted(set(values)) for values in stamps.values())
    counts = {topic: len(values) for topic, values in stamps.items()}
    assert counts['/lidar/points'] == 10
    assert counts['/odom'] == 61
    for camera in rig.cameras:
        assert counts[f'/camera/{camera.name}/image_raw/compressed'] == 12
    assert images.keys() == cameras.keys()
    for (frame_id, stamp), size in images.items():
        own = next(c for c in rig.cameras if c.frame_id == frame_id)
        assert size == SMALL == cameras[frame_id, stamp].size_px
        assert np.array_equal(cameras[frame_id, stamp].K, own.camera.K)
        time_s = (stamp - config.epoch_ns) / 1e9
        expected = world.odom_T_base(time_s) @ own.base_T_cam
        found = tree.lookup('odom', frame_id, stamp)
        assert np.abs(found[:3, 3] - expected[:3, 3]).max() < 1e-3
        assert np.abs(found[:3, :3] - expected[:3, :3]).max() < 2e-5
    for stamp in stamps['/lidar/points']:
        assert tree.lookup('odom', 'lidar', stamp).shape == (4, 4)
    assert np.array_equal(load_truth(made).stamps_ns, stamps['/camera/front/camera_info'])


def test_lidar_message_and_qos(made: Path) -> None:
    from rosbags.highlevel import AnyReader

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


def test_raw_images(tmp_path: Path) -> None:
    config = DriveConfig(seconds=0.1, size_px=(160, 90), raw=True)
    write_drive(tmp_path / 'raw', config, workers=1)
    messages = list(read_messages(tmp_path / 'raw' / 'bag', ['/camera/back/image_raw']))
    assert len(messages) == 1
    image = read_image(messages[0][2])
    rig, world = config.rig(), config.world()
    times = exposure_times_s(rig, 0)
    expected = render_frame(world, rig, times).images['back']
    assert np.array_equal(image, expected)


# Bad input


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        ({'seconds': 0.0}, 'seconds'),
        ({'seconds': float('nan')}, 'seconds'),
        ({'seconds': 300.0, 'speed_mps': 40.0}, 'speed_mps x seconds'),
        ({'speed_mps': -1.0}, 'speed_mps'),
        ({'seed': -1}, 'seed'),
        ({'size_px': (640, 640)}, '16:9'),
        ({'size_px': (16, 9)}, '16x9'),
        ({'jitter_s': 0.1}, 'jitter_s'),
    ],
)
def test_bad_settings(settings: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        write_drive(tmp_path / 'x', DriveConfig(**settings), workers=1)
    assert not list(tmp_path.iterdir())


def test_a_standing_vehicle_is_fine(tmp_path: Path) -> None:
    write_drive(
        tmp_path / 'x', DriveConfig(seconds=0.1, speed_mps=0.0, size_px=(64, 36)), workers=1
    )


def test_existing_files_are_never_touched(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'mine').write_text('keep')
    assert cli.main(['synth', str(tmp_path / 'out'), '--seconds', '0.1']) == 1
    error = capsys.readouterr().err
    assert error == f'bev synth: {tmp_path / "out"} exists and is not an empty folder\n'
    assert [p.name for p in tmp_path.rglob('*')] == ['out', 'mine']


def test_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(BevError, match='cannot be written'):
        write_drive(tmp_path / 'file' / 'out', DriveConfig(seconds=0.1, size_px=SMALL))


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_nothing_stays_behind(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(drive.np, 'savez_compressed', fail)
    with pytest.raises(error):
        write_drive(tmp_path / 'out', DriveConfig(seconds=0.1, size_px=(64, 36)), workers=1)
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / 'new' / 'drive'
    words = ['synth', str(out), '--seconds', '0.1', '--size', '64x36', '--workers', '1', '--json']
    assert cli.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result['path'] == str(out) and result['images'] == 6
    for wrong in (
        ['synth'],
        ['synth', 'x', '--size', 'big'],
        ['synth', 'x', '--size', '640x640'],
        ['synth', 'x', '--seconds', '-3'],
        ['synth', 'x', '--workers', '0'],
        ['nonsense'],
        [],
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(wrong)
        assert stop.value.code == 2
    with pytest.raises(SystemExit) as stop:
        cli.main(['synth', '--help'])
    assert stop.value.code == 0
    assert 'examples:' in capsys.readouterr().out
