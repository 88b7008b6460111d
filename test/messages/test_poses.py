"""`tf2_msgs/TFMessage` and `nav_msgs/Odometry`."""

from __future__ import annotations

from types import SimpleNamespace as Plain

import numpy as np
import pytest

from bev_perception import messages
from bev_perception.errors import MessageError

from .makers import NAN, VARIANTS, header, hold


def vector(x, y, z, w=None):
    return Plain(x=x, y=y, z=z) if w is None else Plain(x=x, y=y, z=z, w=w)


QUARTER = (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5))  # 90 degrees to the left


def transform(parent='map', child='base', xyz=(1.0, 2.0, 3.0), quat=QUARTER):
    return Plain(
        header=header(parent),
        child_frame_id=child,
        transform=Plain(translation=vector(*xyz), rotation=vector(*quat)),
    )


def odometry(parent='odom', child='base_link', xyz=(1.0, 2.0, 3.0), quat=QUARTER):
    pose = Plain(position=vector(*xyz), orientation=vector(*quat))
    return Plain(header=header(parent), child_frame_id=child, pose=Plain(pose=pose))


@pytest.mark.parametrize('variant', VARIANTS)
def test_transforms(variant):
    plain = Plain(transforms=[transform('/map', '/base'), transform('base', 'cam')])
    first, second = messages.read_transforms(hold(variant, 'tf2_msgs/msg/TFMessage', plain))
    assert (first.parent, first.child, first.stamp_ns) == ('map', 'base', 12_000_000_345)
    assert (second.parent, second.child) == ('base', 'cam')
    expected = [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]
    np.testing.assert_allclose(first.parent_T_child, expected, atol=1e-15)


@pytest.mark.parametrize('variant', VARIANTS)
def test_odometry(variant):
    got = messages.read_pose(hold(variant, 'nav_msgs/msg/Odometry', odometry()))
    assert (got.parent, got.child, got.stamp_ns) == ('odom', 'base_link', 12_000_000_345)
    expected = [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]
    np.testing.assert_allclose(got.parent_T_child, expected, atol=1e-15)


def test_no_transforms():
    assert messages.read_transforms(Plain(transforms=[])) == []


@pytest.mark.parametrize('scale', [0.999, 1.0005, 1.2, -1.0])
def test_rounded_quaternions_are_normalised(scale):
    quat = tuple(scale * q for q in QUARTER)
    got = messages.read_pose(odometry(quat=quat)).parent_T_child
    expected = messages.read_pose(odometry()).parent_T_child
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'quat': (0.0, 0.0, 0.0, 0.0)}, ["'map' -> 'base'", 'norm 0']),
        ({'quat': (0.0, 0.0, 0.0, 3.0)}, ['norm 3']),
        ({'quat': (0.0, NAN, 0.0, 1.0)}, ['nan']),
        ({'xyz': (0.0, float('inf'), 0.0)}, ['inf']),
        ({'parent': ''}, ["'' -> 'base'", 'empty']),
        ({'child': '/'}, ["'map' -> ''"]),
    ],
)
def test_bad_transforms_say_what_is_wrong(change, words):
    fields = {'parent': 'map', 'child': 'base', **change}
    for reader, msg in (
        (messages.read_transforms, Plain(transforms=[transform(**fields)])),
        (messages.read_pose, odometry(**fields)),
    ):
        with pytest.raises(MessageError) as error:
            reader(msg)
        for word in words:
            assert word in str(error.value)


@pytest.mark.parametrize('variant', VARIANTS)
def test_stamps_keep_their_nanoseconds(variant):
    plain = odometry()
    plain.header = header('odom', 1_700_000_000, 999_999_999)
    got = messages.read_pose(hold(variant, 'nav_msgs/msg/Odometry', plain)).stamp_ns
    assert got == 1_700_000_000_999_999_999 and type(got) is int
