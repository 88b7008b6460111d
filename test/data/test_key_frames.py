"""Which sets become frames, and where sequences end."""

from __future__ import annotations

import numpy as np
import pytest

from bev_perception.errors import ConfigError
from bev_training.data.key_frames import KeyFrameRule
from bev_training.data.settings import ConvertConfig, KeyFrames

S = 10**9
T0 = 1_700_000_000 * S


def at(x_m: float) -> np.ndarray:
    pose = np.eye(4)
    pose[0, 3] = x_m
    return pose


def run(every: str, sets: list[tuple[float, float | None]]) -> list[tuple[float, int]]:
    """Send (seconds, metres) through a rule; (seconds, sequence) of those that become frames."""
    rule = KeyFrameRule(KeyFrames.parse(every))
    frames = []
    for seconds, x_m in sets:
        stamp, pose = T0 + round(seconds * S), None if x_m is None else at(x_m)
        due = rule.due(stamp, pose)
        if due:
            frames.append((seconds, rule.sequence(stamp, pose)))
        rule.passed(stamp, pose, accepted=due)
    return frames


def test_metres_keep_one_frame_of_a_parked_hour():
    parked = [(float(i), 0.0) for i in range(3600)]
    assert run('2m', parked) == [(0.0, 0)]
    driven = [(i / 10, i * 0.5) for i in range(100)]
    assert [t for t, _ in run('2m', driven)] == pytest.approx([i * 0.4 for i in range(25)])


def test_seconds_keep_their_rate_in_spite_of_jitter():
    rng = np.random.default_rng(0)
    sets = [(i / 12 + rng.uniform(-0.004, 0.004), None) for i in range(1200)]
    frames = [t for t, _ in run('0.5s', sets)]
    assert len(frames) == pytest.approx(200, abs=1)
    assert max(np.diff(frames)) < 0.5 + 1 / 12 + 0.01


def test_all():
    assert len(run('all', [(i / 12, None) for i in range(10)])) == 10


@pytest.mark.parametrize(
    ('sets', 'sequences'),
    [
        ([(0, 0), (1, 3), (2, 6)], [0, 0, 0]),
        ([(0, 0), (1, 3), (3.5, 6)], [0, 0, 1]),  # the recording was interrupted
        ([(0, 0), (1, 3), (0.2, 6)], [0, 0, 1]),  # the clock went back
        ([(0, 0), (1, 3), (1.1, 90)], [0, 0, 1]),  # the odometry jumped
        ([(0, 0), (1, 0.5), (1.1, 90), (2, 90.5)], [0, 1]),  # and so does the set after it
    ],
)
def test_sequences_end(sets, sequences):
    assert [sequence for _, sequence in run('2m', sets)] == sequences


def test_frames_far_apart_in_time_are_no_neighbours():
    standing = [(float(i), 0.0) for i in range(20)]
    away = [(19.0 + i / 10, float(i)) for i in range(1, 5)]
    assert run('2m', standing + away) == [(0.0, 0), (19.2, 1), (19.4, 1)]


def test_a_set_that_could_not_be_used_leaves_its_place_to_the_next():
    rule = KeyFrameRule(KeyFrames(metres=2.0))
    rule.passed(T0, at(0), accepted=True)
    assert rule.due(T0 + S, at(2.1))
    rule.passed(T0 + S, at(2.1), accepted=False)
    assert rule.due(T0 + 2 * S, at(2.2))


@pytest.mark.parametrize('text', ['', '2', 'm', '-2m', '2km', '0m', 'nan', '1e3s', 'ALL'])
def test_bad_rules_are_named(text):
    with pytest.raises(ConfigError, match='every'):
        KeyFrames.parse(text)


@pytest.mark.parametrize('text', ['2m', '0.5s', 'all', '12.25m'])
def test_rules_are_written_as_they_are_read(text):
    assert str(KeyFrames.parse(text)) == text


@pytest.mark.parametrize(
    ('values', 'match'),
    [
        ({'cameras': ('front', 'front')}, 'cameras'),
        ({'image_topic': '/camera/image'}, r'image_topic .*\{camera\}'),
        ({'image_geometry': 'flat'}, "image_geometry is 'flat'"),
        ({'base_frame': ''}, 'base_frame'),
        ({'odom_frame': ''}, 'every is 2m; distances need odom_frame'),
        ({'max_sweeps': -1}, 'max_sweeps is -1'),
        ({'jpeg_quality': 0}, 'jpeg_quality is 0'),
        ({'shard_mb': 0.0}, 'shard_mb is 0'),
        ({'min_cameras': 0}, 'min_cameras is 0'),
        ({'max_spread_s': -1.0}, 'max_spread_s'),
        ({'max_spread_s': 65.0}, 'max_spread_s is 65.0; it must be at most 1 s'),
        ({'odometry_topic': '/odom', 'odom_frame': '', 'every': KeyFrames()}, 'odometry_topic'),
    ],
)
def test_bad_settings_are_named(values, match):
    with pytest.raises(ConfigError, match=match):
        ConvertConfig(**values)
