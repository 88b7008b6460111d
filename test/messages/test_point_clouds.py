"""`sensor_msgs/PointCloud2`: any layout of fields."""

from __future__ import annotations

import struct
from types import SimpleNamespace as Plain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bev_perception import messages
from bev_perception.errors import MessageError

from .makers import NAN, VARIANTS, header, hold

CODES = {'i1': 1, 'u1': 2, 'i2': 3, 'u2': 4, 'i4': 5, 'u4': 6, 'f4': 7, 'f8': 8}


def field(name, code, offset, count=1):
    return Plain(name=name, offset=offset, datatype=CODES[code], count=count)


def cloud(values, layout, *, point_step, shape=None, row_padding=0, big=False):
    """Pack `values[name]` ((n,) or (n, count)) at `layout[name]` = (code, offset)."""
    n = len(next(iter(values.values())))
    height, width = shape or (1, n)
    row_step = width * point_step + row_padding
    rows = np.full((height, row_step), 0xEE, np.uint8)
    fields = []
    for name, (code, offset) in layout.items():
        data = np.asarray(values[name])
        data = data[:, None] if data.ndim == 1 else data
        fields.append(field(name, code, offset, data.shape[1]))
        stored = np.ascontiguousarray(data.astype(('>' if big else '<') + code))
        packed = stored.view(np.uint8)
        end = offset + packed.shape[1]
        points = rows[:, : width * point_step].reshape(height, width, point_step)
        points[..., offset:end] = packed.reshape(height, width, end - offset)
        rows[:, : width * point_step] = points.reshape(height, width * point_step)
    return Plain(
        header=header('lidar'),
        height=height,
        width=width,
        fields=fields,
        is_bigendian=big,
        point_step=point_step,
        row_step=row_step,
        data=rows.tobytes(),
        is_dense=True,
    )


XYZ = {'x': ('f4', 0), 'y': ('f4', 4), 'z': ('f4', 8)}


def numbers(n, seed=0):
    return np.random.default_rng(seed).normal(0, 10, n).astype(np.float32)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('big', [False, True])
def test_every_datatype_with_padding_between(variant, big):
    rng = np.random.default_rng(1)
    values, layout, offset = {}, {}, 3  # odd offsets: nothing is aligned
    for code in CODES:
        dtype = np.dtype(code)
        kind = np.iinfo(dtype) if dtype.kind in 'iu' else None
        values[code] = (
            rng.integers(kind.min, kind.max, 6, dtype)
            if kind
            else rng.normal(size=6).astype(dtype)
        )
        layout[code] = (code, offset)
        offset += dtype.itemsize + 1
    plain = cloud(values, layout, point_step=offset + 5, shape=(2, 3), row_padding=7, big=big)
    got = messages.read_points(hold(variant, 'sensor_msgs/msg/PointCloud2', plain))
    assert list(got) == list(values)
    for code, expected in values.items():
        assert got[code].dtype == np.dtype(code) and got[code].dtype.isnative
        assert got[code].flags.writeable
        np.testing.assert_array_equal(got[code], expected, err_msg=code)


@pytest.mark.parametrize('variant', VARIANTS)
def test_fields_with_several_values(variant):
    values = {'xyz': numbers((4, 3)), 'ring': np.arange(4)}
    plain = cloud(values, {'xyz': ('f4', 0), 'ring': ('u2', 12)}, point_step=16)
    got = messages.read_points(hold(variant, 'sensor_msgs/msg/PointCloud2', plain))
    np.testing.assert_array_equal(got['xyz'], values['xyz'])
    np.testing.assert_array_equal(got['ring'], [0, 1, 2, 3])


def test_by_hand():
    """Two points of x, y, z, intensity, written with struct."""
    data = struct.pack('<ffff', 1, 2, 3, 0.5) + struct.pack('<ffff', -4, 5.5, 6, 0.25)
    fields = [field(n, 'f4', 4 * i) for i, n in enumerate(('x', 'y', 'z', 'intensity'))]
    plain = Plain(
        header=header('lidar'),
        height=1,
        width=2,
        fields=fields,
        is_bigendian=False,
        point_step=16,
        row_step=32,
        data=data,
    )
    got = messages.read_points(plain)
    np.testing.assert_array_equal(messages.points_xyz(got), [[1, 2, 3], [-4, 5.5, 6]])
    np.testing.assert_array_equal(got['intensity'], [0.5, 0.25])


def test_the_cloud_is_independent_of_the_message():
    """Also where one field fills the whole point and could be viewed in place."""
    values = {'xyz': numbers((4, 3))}
    plain = cloud(values, {'xyz': ('f4', 0)}, point_step=12)
    plain.data = np.frombuffer(plain.data, np.uint8).copy()
    got = messages.read_points(plain)
    plain.data[:] = 0
    np.testing.assert_array_equal(got['xyz'], values['xyz'])


def test_overlapping_and_nameless_fields():
    """PCL writes the same bytes as `rgb` and `rgba`, and names padding fields ''."""
    values = {name: numbers(3) for name in ('x', 'y', 'z')}
    plain = cloud(values, XYZ, point_step=20)
    plain.fields += [field('rgb', 'f4', 16), field('rgba', 'u4', 16), field('', 'u1', 12)]
    got = messages.read_points(plain)
    assert list(got) == ['x', 'y', 'z', 'rgb', 'rgba']
    np.testing.assert_array_equal(got['rgb'].view(np.uint32), got['rgba'])


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    padding=st.integers(0, 9),
    row_padding=st.integers(0, 9),
)
def test_organised_clouds(height, width, padding, row_padding):
    n = height * width
    values = {name: numbers(n, i) for i, name in enumerate(('x', 'y', 'z'))}
    plain = cloud(
        values, XYZ, point_step=12 + padding, shape=(height, width), row_padding=row_padding
    )
    xyz = messages.points_xyz(messages.read_points(plain))
    assert xyz.dtype == np.float32 and xyz.flags.c_contiguous
    np.testing.assert_array_equal(xyz, np.stack(list(values.values()), -1))


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('shape', [(1, 0), (0, 0), (0, 5)])
def test_empty_clouds(variant, shape):
    plain = cloud({name: numbers(0) for name in 'xyz'}, XYZ, point_step=12, shape=shape)
    got = messages.read_points(hold(variant, 'sensor_msgs/msg/PointCloud2', plain))
    assert messages.points_xyz(got).shape == (0, 3)


def test_one_row_needs_no_row_step():
    values = {name: numbers(4, i) for i, name in enumerate('xyz')}
    plain = cloud(values, XYZ, point_step=12)
    plain.row_step = 0
    np.testing.assert_array_equal(messages.read_points(plain)['z'], values['z'])


def test_points_that_are_not_finite():
    fields = {'x': np.array([1.0, NAN, 3.0]), 'y': np.zeros(3), 'z': np.array([0, 0, np.inf])}
    assert messages.points_xyz(fields).shape == (3, 3)
    np.testing.assert_array_equal(messages.points_xyz(fields, finite_only=True), [[1, 0, 0]])


def test_positions_need_all_axes():
    with pytest.raises(MessageError, match=r"lacks \['y'\].*'intensity', 'x', 'z'"):
        messages.points_xyz({'x': np.zeros(1), 'z': np.zeros(1), 'intensity': np.zeros(1)})


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'data': bytes(71)}, ['lidar', '71 bytes', '3x2', '12 bytes', '72 bytes needed']),
        ({'row_step': 35}, ['row_step 35']),
        ({'height': 3}, ['3x3']),
        ({'point_step': 11}, ["'z'", 'byte 12', '11']),
        ({'point_step': 0}, ["'x'", 'byte 4', '0']),
        ({'fields': [field('x', 'f4', 9)]}, ["'x'", 'byte 13']),
        ({'fields': [Plain(name='x', offset=0, datatype=9, count=1)]}, ["'x'", 'datatype 9']),
    ],
)
def test_bad_clouds_say_what_is_wrong(change, words):
    plain = cloud({name: numbers(6) for name in 'xyz'}, XYZ, point_step=12, shape=(2, 3))
    vars(plain).update(change)
    with pytest.raises(MessageError) as error:
        messages.read_points(plain)
    for word in words:
        assert word in str(error.value)
