"""Every rule of drives: a converted drive with this one defect gives exactly this finding."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bev_training.data.bag_inputs import find_bags
from bev_training.data.convert import convert_bag
from bev_training.data.drive_writer import DriveWriter
from bev_training.data.drives import Drive
from bev_training.data.frame import Frame, LidarSweep
from bev_training.data.settings import KeyFrames
from bev_training.inspection.drive_measurements import lidar_in_image, measure_drive
from bev_training.inspection.drive_rules import drive_findings
from bev_training.inspection.report import inspect_paths
from bev_training.inspection.rules import RULES
from test.inspection.defects import CONFIG, write


@pytest.fixture(scope='module')
def healthy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('healthy')
    bag = write(folder / 'bag', seconds=2.0)
    config = replace(CONFIG, every=KeyFrames())
    convert_bag(find_bags([bag])[0], folder / 'drive', config)
    return folder / 'drive'


def rewritten(healthy: Path, folder: Path, change, calibrate=lambda c: [c]) -> Path:
    """The drive with its frames and calibrations changed, written as a conversion writes."""
    drive = Drive(healthy)
    with DriveWriter(folder, cameras=drive.cameras, shard_bytes=1 << 20) as writer:
        for calibration in calibrate(drive.calibrations[0]):
            writer.add_calibration(calibration)
        for i in range(len(drive)):
            writer.add(change(i, drive.frame(i)))
        writer.finish(drive.manifest['facts'], drive.manifest['counts'])
    return folder


def found(path: Path, **values) -> set[str]:
    (subject,) = inspect_paths([path], **values)
    assert all(f.text and '\n' not in f.text for f in subject.findings)
    return {finding.rule for finding in subject.findings}


def test_the_newest_sweep_of_every_lidar_is_projected(healthy):
    drive = Drive(healthy)
    frame = drive.frame(8)
    (view,) = (view for view in frame.views if view.camera == 'front')
    number = np.arange(5)[:, None] * (0, 0.1, 0.1)

    def sweep(lidar: str, count: int, x: float) -> LidarSweep:
        points = ((x, 0, 1.5) + number[:count]).astype('f4')
        return replace(frame.sweeps[0], lidar=lidar, points=points, ego_T_lidar=np.eye(4))

    sweeps = (sweep('top', 2, 9), sweep('top', 5, 9), sweep('rear', 3, -9))  # oldest first
    _, seen, _ = lidar_in_image(replace(frame, sweeps=sweeps), view, drive.calibrations)
    assert seen.tolist() == 5 * [True] + 3 * [False]


def moved_after(number: int, *metres: float):
    def change(i: int, frame: Frame) -> Frame:
        pose = np.array(frame.odom_T_ego)
        pose[:3, 3] += np.array(metres) * (i >= number)
        return replace(frame, odom_T_ego=pose)

    return change


def points_at(x: float, y: float):
    """All sweeps are a small cloud at one place of the ego frame."""

    def change(i: int, frame: Frame) -> Frame:
        def at(sweep: LidarSweep) -> LidarSweep:
            points = np.array(sweep.points)
            points[:, :3] = np.random.default_rng(i).uniform(-0.5, 0.5, (len(points), 3))
            points[:, :3] += (x, y, 0)
            return replace(sweep, points=points.astype('f4'), ego_T_lidar=np.eye(4))

        return replace(frame, sweeps=tuple(at(s) for s in frame.sweeps))

    return change


def cut_images(i: int, frame: Frame) -> Frame:
    views = list(frame.views)
    if i == 4:
        image = views[1].image
        views[1] = replace(views[1], image=replace(image, data=image.data[:-40]))
    return replace(frame, views=tuple(views))


def bad_points(i: int, frame: Frame) -> Frame:
    if i != 4:
        return frame
    (*rest, last) = frame.sweeps
    points = np.array(last.points)
    points[0, 0] = np.nan
    return replace(frame, sweeps=(*rest, replace(last, points=points)))


def no_odometry(i: int, frame: Frame) -> Frame:
    views = tuple(replace(view, odom_T_base=None) for view in frame.views)
    return replace(frame, odom_T_ego=None, views=views)


def without_front(i: int, frame: Frame) -> Frame:
    if i % 4:
        return frame
    views = tuple(view for view in frame.views if view.camera != 'front')
    return replace(frame, views=views, missing=('front',))


def odd_lens(calibration):
    front = calibration.cameras['front']
    K = np.array(front.camera.K)
    K[0, 0] *= 2
    cameras = {**calibration.cameras, 'front': replace(front, camera=replace(front.camera, K=K))}
    return [replace(calibration, cameras=cameras)]


def two_epochs(calibration):
    (odd,) = odd_lens(calibration)
    return [calibration, replace(odd, epoch=1, from_stamp_ns=odd.from_stamp_ns + 10**9)]


def as_it_is(i: int, frame: Frame) -> Frame:
    return frame


CHANGES = {
    'DRV004': (cut_images, set()),
    'DRV005': (bad_points, set()),
    'DRV011': (moved_after(10, 1000, 0, 0), set()),
    'DRV012': (moved_after(10, 0, 0, 4), set()),
    'DRV013': (no_odometry, set()),
    'DRV020': (points_at(1.0, 8.0), set()),
    'DRV021': (points_at(-9.0, 0.0), {'DRV020'}),
    'DRV022': (lambda i, f: f if i % 4 else replace(f, sweeps=()), set()),
    'DRV030': (lambda i, f: replace(f, sequence=int(i >= 10)), set()),
    'DRV032': (without_front, set()),
}
FILES = {'DRV001', 'DRV002', 'DRV003', 'DRV006'}
CALIBRATIONS = {'DRV014', 'DRV031'}
MEASURED = {'DRV010', 'DRV033', 'DRV034'}


def test_every_rule_is_tested():
    tested = {*CHANGES, *FILES, *CALIBRATIONS, *MEASURED}
    assert tested == {name for name in RULES if name.startswith('DRV')}


def test_a_healthy_drive_has_no_finding(healthy):
    assert found(healthy) == set()
    assert found(healthy, quick=True) == {'DRV006'}


@pytest.mark.parametrize('rule', CHANGES)
def test_one_defect_gives_one_rule(rule, healthy, tmp_path):
    change, more = CHANGES[rule]
    assert found(rewritten(healthy, tmp_path / 'd', change)) == {rule} | more


def test_calibrations(healthy, tmp_path):
    odd = rewritten(healthy, tmp_path / 'odd', as_it_is, odd_lens)
    assert found(odd) == {'DRV014'}
    assert found(rewritten(healthy, tmp_path / 'two', as_it_is, two_epochs)) == {
        'DRV014',
        'DRV031',
    }


def test_files(healthy, tmp_path):
    folder = tmp_path / 'd'
    shutil.copytree(healthy, folder)
    (folder / 'notes.txt').write_text('mine')
    assert found(folder) == {'DRV003'}
    (folder / 'notes.txt').unlink()
    shard = next((folder / 'shards').iterdir())
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1  # behind the end of the archive
    shard.write_bytes(data)
    assert found(folder) == {'DRV002'}
    assert found(folder, quick=True) == {'DRV006'}  # sizes are right
    shard.write_bytes(data[:-512])
    assert 'DRV002' in found(folder, quick=True)
    shard.unlink()
    assert 'DRV002' in found(folder)
    assert 'DRV002' in found(folder, quick=True)
    (folder / 'manifest.json').unlink()
    assert found(folder) == {'DRV001'}


def test_what_the_writer_never_writes(healthy):
    measured = measure_drive(healthy)

    def rules(**values) -> set[str]:
        return {f.rule for f in drive_findings(replace(measured, **values))}

    assert rules(problems=(('pose_not_rigid', 'frame 000003: x'),)) == {'DRV010'}
    assert rules(problems=(('links', 'a'), ('links', 'b'))) == {'DRV033'}
    (links,) = drive_findings(replace(measured, problems=(('links', 'a'), ('links', 'b'))))
    assert links.text == 'a; and 1 more like it'
    nothing = {
        'stamps_ns': (),
        'sequences': (),
        'sweeps': (),
        'places': np.zeros((0, 3)),
        'projected': {},
        'points': 0,
    }
    assert rules(**nothing) == {'DRV034'}


def test_a_red_light_is_no_gap(healthy):
    measured = measure_drive(healthy)
    frames = len(measured.stamps_ns)
    behind = np.arange(frames) >= 10
    settings = {**measured.manifest['facts']['settings'], 'every': '2m'}
    values = {
        'manifest': {**measured.manifest, 'facts': {'settings': settings}},
        'stamps_ns': tuple(np.array(measured.stamps_ns) + behind * 60 * 10**9),
        'sequences': tuple(behind.astype(int)),
    }
    assert 'DRV030' not in {f.rule for f in drive_findings(replace(measured, **values))}
    far = measured.places + behind[:, None] * (500.0, 0.0, 0.0)
    (gap,) = (
        f for f in drive_findings(replace(measured, **values, places=far)) if f.rule == 'DRV030'
    )
    assert gap.text == '1 gap, the longest 60.1 s'
    every_set = replace(measured, **{**values, 'manifest': measured.manifest})
    assert 'DRV030' in {f.rule for f in drive_findings(every_set)}


def test_an_unfinished_drive_beside_a_finished_one(healthy, tmp_path):
    shutil.copytree(healthy, tmp_path / 'out' / 'a')
    shutil.copytree(healthy, tmp_path / 'out' / 'b')
    (tmp_path / 'out' / 'b' / 'manifest.json').unlink()
    subjects = inspect_paths([tmp_path / 'out'])
    assert [[f.rule for f in s.findings] for s in subjects] == [[], ['DRV001']]
