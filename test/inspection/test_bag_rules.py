"""Every rule of recordings: a small recording with this one defect gives exactly this finding."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bev_perception.errors import CalibrationError, SyncError
from bev_training.data.settings import ConvertConfig
from bev_training.inspection.findings import Finding
from bev_training.inspection.report import inspect_paths
from bev_training.inspection.report_text import text_report
from bev_training.inspection.rules import RULES
from test.factories import look
from test.inspection.defects import (
    CONFIG,
    SECONDS,
    changed,
    each,
    edited,
    later,
    message_of,
    moved,
    put,
    stamped_later,
    write,
)

IMAGE, INFO, LIDAR, TF = 'front/image', 'front/camera_info', '/lidar/points', '/tf'
ALWAYS = {'BAG053'}  # the little lidar has no time per point


def found(path: Path, config: ConvertConfig = CONFIG, **values) -> list[Finding]:
    (subject,) = inspect_paths([path], config, **values)
    return list(subject.findings)


def intrinsics(**values):
    """Change K and size of the front camera's CameraInfo."""

    def change(message):
        k = np.array(message.k)
        k[0] = values.get('fx', k[0])
        k[4] = values.get('fy', k[4])
        k[2] = values.get('cx', k[2])
        k[5] = values.get('cy', k[5])
        put(message, k=k, width=values.get('width', 64), height=values.get('height', 48))

    return change


def no_pixels(message):
    put(message, data=message.data[:-20])


def no_points(message):
    put(message, width=0, row_step=0, data=message.data[:0])


def no_stamp(message):
    put(message.header.stamp, sec=0, nanosec=0)


def restamped(entry, seconds):
    def change(message):
        for each_one in message.transforms:
            at = each_one.header.stamp
            put(at, sec=at.sec + seconds)

    return edited(entry, change)


def no_frame(message):
    put(message.header, frame_id='')


def small_image(message):
    import cv2

    jpeg = cv2.imencode('.jpg', np.zeros((24, 32, 3), np.uint8))[1]
    put(message, data=jpeg.reshape(-1))


def far(message):
    place = message.transforms[0].transform.translation
    put(place, x=place.x + 100)


def without(*numbers):
    return lambda i, entry: None if i in numbers else entry


def drifting(i, entry):
    return later(entry, 0.1 * i / (20 * SECONDS))


def swapped(entries):
    lidar = [i for i, e in enumerate(entries) if e.topic == LIDAR]
    a, b = lidar[10], lidar[11]
    out = list(entries)
    out[a] = changed(entries[b], time_ns=entries[a].time_ns)
    out[b] = changed(entries[a], time_ns=entries[b].time_ns)
    return out


def repeated(entries):
    again = [later(e, 0.005) for e in entries if e.topic == LIDAR][5]
    return sorted([*entries, again], key=lambda e: e.time_ns)


def twice_as_fast(entries):
    more = [stamped_later(later(e, 0.05), 0.05) for e in entries if IMAGE in e.topic]
    return sorted([*entries, *more], key=lambda e: e.time_ns)


def all_later(entries):
    return [later(e, 2.0) for e in entries]


def damaged(i, entry):
    return changed(entry, data=entry.data[:6]) if i == 7 else entry


def turned(yaw_deg: float, at) -> np.ndarray:
    return look(yaw_deg, 5.0, at)


BODY = np.eye(4)
BODY[:3, 3] = (1.5, 0, 1.5)
FRONT = 'front_optical'
TIGHT = replace(CONFIG, max_spread_s=0.006)
# rule -> (what is changed, settings of the drive, settings of the conversion, all rules found)
CASES = {
    'BAG002': (each(IMAGE, damaged), {}, CONFIG, set()),
    'BAG003': (None, {'cameras': ()}, CONFIG, set()),
    'BAG005': (message_of(IMAGE, no_frame), {}, CONFIG, set()),
    'BAG010': (each(IMAGE, without(10, 11, 12, 13)), {}, CONFIG, set()),
    'BAG011': (
        each(LIDAR, lambda i, e: stamped_later(e, 0.02 * (i % 2))),
        {},
        CONFIG,
        set(),
    ),
    'BAG012': (swapped, {}, CONFIG, set()),
    'BAG013': (repeated, {}, CONFIG, set()),
    'BAG014': (message_of(LIDAR, no_stamp, lambda i: i == 9), {}, CONFIG, set()),
    'BAG015': (all_later, {}, CONFIG, set()),
    'BAG016': (each(LIDAR, drifting), {}, CONFIG, set()),
    'BAG017': (
        each(LIDAR, lambda i, e: stamped_later(e, 10) if i > 55 else e),
        {},
        CONFIG,
        set(),
    ),
    'BAG018': (each(LIDAR, lambda i, e: later(e, 0.4)), {}, CONFIG, set()),
    'BAG019': (each(LIDAR, lambda i, e: e if i > 45 else None), {}, CONFIG, {'BAG056'}),
    'BAG020': (
        None,
        {},
        replace(CONFIG, max_spread_s=0.001),
        {'BAG023'},
    ),
    'BAG021': (each(IMAGE, without(8, 10, 12, 14, 16, 18)), {}, CONFIG, set()),
    'BAG022': (twice_as_fast, {}, CONFIG, set()),
    'BAG023': (None, {}, TIGHT, set()),
    'BAG024': (each(IMAGE, without(*range(8, 28))), {}, CONFIG, {'BAG021', 'BAG010'}),
    'BAG030': (moved(FRONT, None), {}, CONFIG, set()),
    'BAG031': (None, {'tf': False, 'odometry': False}, CONFIG, set()),
    'BAG032': (
        each('/tf', lambda i, e: None if i > 105 else e),
        {},
        CONFIG,
        set(),
    ),
    'BAG033': (
        each('/tf', lambda i, e: None if 70 < i < 86 else e),
        {},
        CONFIG,
        set(),
    ),
    'BAG034': (message_of('/tf', far, lambda i: i > 80), {}, CONFIG, set()),
    'BAG037': (
        each('/tf', lambda i, e: restamped(e, -60) if i > 100 else e),
        {},
        CONFIG,
        {'BAG032'},
    ),
    'BAG035': (None, {'speed_mps': 0.0}, CONFIG, set()),
    'BAG036': (
        each('/tf', lambda i, e: e if i % 8 == 0 or i == 0 else None),
        {},
        CONFIG,
        set(),
    ),
    'BAG040': (message_of(INFO, intrinsics(height=64)), {}, CONFIG, set()),
    'BAG041': (
        message_of(INFO, intrinsics(width=128, height=96, cx=63.5, cy=47.5)),
        {},
        CONFIG,
        set(),
    ),
    'BAG042': (message_of(INFO, intrinsics(fx=60.0)), {}, CONFIG, set()),
    'BAG043': (message_of(INFO, intrinsics(cx=8.0)), {}, CONFIG, set()),
    'BAG044': (message_of(INFO, intrinsics(fx=900.0, fy=900.0)), {}, CONFIG, set()),
    'BAG045': (message_of(INFO, intrinsics(fx=0.0, fy=0.0)), {}, CONFIG, set()),
    'BAG046': (message_of(INFO, intrinsics(fx=46.0), lambda i: i > 15), {}, CONFIG, set()),
    'BAG047': (moved(FRONT, turned(0, (50, 0, 1.5))), {}, CONFIG, set()),
    'BAG048': (
        lambda entries: moved(FRONT, turned(0, (1, 0, 1.5)))(
            moved('front_left_optical', turned(0, (1, 0, 1.5)))(entries)
        ),
        {},
        CONFIG,
        set(),
    ),
    'BAG049': (moved(FRONT, BODY), {}, CONFIG, set()),
    'BAG050': (message_of(IMAGE, no_pixels, lambda i: i == 11), {}, CONFIG, set()),
    'BAG051': (message_of(IMAGE, small_image, lambda i: i == 12), {}, CONFIG, {'BAG041'}),
    'BAG055': (
        lambda entries: sorted(
            [*entries, *(later(e, 0.005) for e in entries if e.topic == LIDAR)],
            key=lambda e: e.time_ns,
        ),
        {},
        CONFIG,
        {'BAG013'},
    ),
    'BAG052': (message_of(LIDAR, no_points, lambda i: i == 13), {}, CONFIG, set()),
}
ELSEWHERE = {'BAG001', 'BAG004', 'BAG006', 'BAG053', 'BAG054', 'BAG056'}  # below, in test_video


def test_every_rule_is_tested():
    assert set(CASES) | ELSEWHERE == {name for name in RULES if name.startswith('BAG')}


@pytest.mark.parametrize('rule', CASES)
def test_one_defect_gives_one_rule(rule, tmp_path):
    edit, drive, config, more = CASES[rule]
    bag = write(tmp_path / 'bag', edit or (lambda entries: entries), **drive)
    findings = found(bag, config)
    assert {f.rule for f in findings} - ALWAYS == {rule} | more, findings
    for finding in findings:
        assert finding.text
        assert '\n' not in finding.text


def test_a_healthy_recording_has_no_warning(tmp_path):
    findings = found(write(tmp_path / 'bag'))
    assert [f.rule for f in findings] == ['BAG053']
    assert findings[0].severity == 'info'
    assert 'no time' in findings[0].text


def test_what_is_no_recording_is_an_error(tmp_path):
    bad = tmp_path / 'bad.mcap'
    bad.write_bytes(b'\x89MCAP0\r\nnothing')
    assert [f.rule for f in found(bad)] == ['BAG001']
    assert [f.rule for f in found(tmp_path / 'absent')] == ['BAG001']


def test_quick_reads_the_first_minute(tmp_path, monkeypatch):
    monkeypatch.setattr('bev_training.inspection.bag_measurements.QUICK_NS', 10**9)
    bag = write(tmp_path / 'bag', each(IMAGE, without(20, 21, 22, 23)))
    assert {f.rule for f in found(bag, quick=True)} - ALWAYS == {'BAG004'}
    monkeypatch.undo()
    assert 'BAG004' not in {f.rule for f in found(bag, quick=True)}  # it is shorter than that
    assert {f.rule for f in found(bag)} - ALWAYS == {'BAG010'}


@pytest.mark.parametrize(('error', 'rule'), [(SyncError, 'BAG006'), (CalibrationError, 'BAG040')])
def test_where_a_conversion_would_stop(error, rule, tmp_path, monkeypatch):
    from bev_training.data.frames import FrameSelector

    push, seen = FrameSelector.push, []

    def stops(self, topic, bag_ns, message):
        seen.append(topic)
        if len(seen) > 100:
            raise error('front: the 101st message')
        return push(self, topic, bag_ns, message)

    bag = write(tmp_path / 'bag')
    monkeypatch.setattr(FrameSelector, 'push', stops)
    (subject,) = inspect_paths([bag], CONFIG)
    assert len(seen) == 101
    first = subject.findings[0]
    assert (first.rule, first.severity) == (rule, 'error')
    assert 'the 101st message' in first.text
    (at_s,) = re.findall(r'at (\d\.\d) s', first.text)
    assert 0 < float(at_s) < SECONDS
    assert re.search(
        rf'frames: 0, a conversion would stop at \d\.\d s \({rule}\)', text_report([subject])
    )
    assert subject.facts['cameras']['front']['sizes_px'] == [[64, 48]]  # read on all the same


def test_what_refuses_an_image_stops_the_conversion(tmp_path):
    from bev_training.data.bag_inputs import find_bags
    from bev_training.data.convert import convert_bag

    bag = write(tmp_path / 'bag', message_of(INFO, intrinsics(height=64)))
    assert 'BAG040' in {f.rule for f in found(bag)}
    with pytest.raises(CalibrationError):
        convert_bag(find_bags([bag])[0], tmp_path / 'out', CONFIG)
    (subject,) = inspect_paths([bag], CONFIG)
    assert ' s (BAG040)' in text_report([subject])


def test_a_busy_network_is_no_drift(tmp_path):
    rng = np.random.default_rng(0)
    busy = (np.arange(60) > 30) & (rng.random(60) > 0.5)
    delays = np.where(busy, rng.uniform(0, 0.3, 60), 0)
    bag = write(tmp_path / 'bag', each(LIDAR, lambda i, e: later(e, delays[i])))
    assert 'BAG016' not in {f.rule for f in found(bag)}


def test_a_short_recording_is_no_standing_vehicle(tmp_path):
    bag = write(tmp_path / 'bag', seconds=0.3, speed_mps=5.0)
    assert {f.rule for f in found(bag)} == ALWAYS


def test_messages_name_the_number_and_the_place(tmp_path):
    bag = write(tmp_path / 'bag', each(IMAGE, without(10, 11, 12, 13)))
    (gap,) = (f for f in found(bag) if f.rule == 'BAG010')
    assert gap.where == '/camera/front/image_raw/compressed'
    assert '1 gap ' in gap.text
    assert '0.50 s' in gap.text  # four of 10 Hz are missing
    jump = write(tmp_path / 'jump', message_of('/tf', far, lambda i: i > 80))
    (finding,) = (f for f in found(jump) if f.rule == 'BAG034')
    assert '100.' in finding.text


def test_estimate_equals_the_conversion(tmp_path):
    from bev_training.data.bag_inputs import find_bags
    from bev_training.data.convert import convert_bag

    bag = write(tmp_path / 'bag', each(IMAGE, without(10, 11)))
    for every in ('2m', '0.5s', 'all'):
        config = replace(CONFIG, every=type(CONFIG.every).parse(every))
        (subject,) = inspect_paths([bag], config)
        done = convert_bag(find_bags([bag])[0], tmp_path / every, config)
        assert subject.facts['frames']['frames'] == done.frames
        assert subject.facts['frames']['sets'] == done.counts['sets']
        assert subject.facts['frames']['epochs'] == done.epochs


def test_real_recordings(shared_data):
    parked = found(shared_data / 'bag_vehicle_odom_gnss_imu')
    assert 'BAG003' in {f.rule for f in parked}
    assert parked[0].severity == 'error'
    raspicam = found(shared_data / 'bag_raspicam_ros1' / 'aruco_images.bag')
    assert 'BAG031' in {f.rule for f in raspicam} or 'BAG030' in {f.rule for f in raspicam}
    unknown = found(shared_data / 'bag_nebula_vlp16')
    assert unknown[0].severity == 'error'


def test_damage_is_a_finding_never_an_exception(tmp_path):
    """900 such changes were made once; a few are made here."""
    original = write(tmp_path / 'bag', seconds=1.0).read_bytes()
    rng = np.random.default_rng(0)
    damaged = tmp_path / 'damaged.mcap'
    for _ in range(30):
        data = bytearray(original)
        if rng.uniform() < 0.3:
            del data[int(rng.integers(len(data))) :]
        for at in rng.integers(max(len(data), 1), size=20 if data else 0):
            data[at] ^= 1 << int(rng.integers(8))
        damaged.write_bytes(data)
        subjects = inspect_paths([damaged], CONFIG)
        assert ' warning' in text_report(subjects).splitlines()[-1]


def test_what_was_read_before_the_damage_is_told(tmp_path):
    bag = write(tmp_path / 'bag')
    data = bytearray(bag.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 30_000] = bytes(30_000)
    bag.write_bytes(data)
    (subject,) = inspect_paths([bag], CONFIG)
    rules = {f.rule for f in subject.findings}
    assert rules & {'BAG001', 'BAG002'}
    assert subject.facts['topics']
