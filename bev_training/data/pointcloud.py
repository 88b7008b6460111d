"""Lidar sweeps as float32 tables: x, y, z, then intensity, ring and time where a cloud has them.

Drivers name and store the same things differently; the rules are here. Numbers that float32
would destroy never enter it as they are: absolute times become seconds since the sweep's stamp,
packed colours become three columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bev_perception.errors import MessageError
from bev_perception.messages import frame_id, points_xyz, read_points
from bev_perception.shapes import AnyArray, Array, Mask

# Column -> what drivers call it; the first that is present counts.
_NAMES = {
    'intensity': ('intensity', 'intensities', 'i', 'reflectance'),
    'ring': ('ring', 'channel', 'laser_id', 'line'),
    'time_s': ('time_s', 't', 'time', 'time_stamp', 'timestamp', 'offset_time'),
}
_PACKED = ('rgb', 'rgba')  # PCL: 0xAARRGGBB in four bytes, often called a float
_COLOURS = {'red': 16, 'green': 8, 'blue': 0}  # column -> shift
# A double at least so large is a time on a clock, in a unit of so many nanoseconds; smaller ones
# are offsets.
_CLOCKS = ((1e17, 1), (1e14, 1_000), (1e11, 1_000_000), (1e8, 1_000_000_000))
_MAX_OFFSET_S = 1.5  # farther from the sweep's stamp is another clock, so no time of use


def sweep_fields(message: Any) -> tuple[str, ...]:
    """Return the columns of a lidar's sweeps, as its first cloud tells them.

    x, y, z, then intensity, ring and time_s where present, then red, green, blue (0..255) of
    packed colours, then all other fields of one number under their own names. Fields of several
    numbers are left out.

    Raises:
        MessageError: x, y or z is missing.
    """
    single = [str(f.name) for f in message.fields if f.name and int(f.count) <= 1]
    missing = [axis for axis in 'xyz' if axis not in single]
    if missing:
        where = frame_id(message.header) or 'point cloud without frame_id'
        raise MessageError(f'{where}: point cloud lacks {missing}; its fields are {single}')
    return tuple(_sources(single))


def read_sweep(message: Any, fields: tuple[str, ...], stamp_ns: int) -> npt.NDArray[np.float32]:
    """Read a `sensor_msgs/PointCloud2` into the columns of its lidar.

    Points without a return are dropped: a coordinate that is not finite, or exactly (0, 0, 0),
    which drivers of organised clouds write instead.

    Args:
        message: the cloud.
        fields: columns, from `sweep_fields`; those that this cloud lacks are NaN.
        stamp_ns: of the sweep; `time_s` counts from it.

    Returns:
        (n, len(fields)) float32: metres in the cloud's frame, seconds, and whatever unit the
        other fields have. `time_s` is NaN throughout if any value lies 1.5 s or more away: it is
        on another clock or in another unit.

    Raises:
        MessageError: sizes or types of the cloud do not fit each other, or x, y or z is missing.
    """
    single = {name: column for name, column in read_points(message).items() if column.ndim == 1}
    sources = _sources(list(single))
    with np.errstate(over='ignore', invalid='ignore'):  # doubles beyond float32 become inf
        xyz = points_xyz(single)
        kept = _with_return(xyz)
        sweep = np.empty((int(kept.sum()), len(fields)), np.float32)
        everything = len(sweep) == len(xyz)
        for i, name in enumerate(fields):
            source = sources.get(name)
            if source is None:
                sweep[:, i] = np.nan
                continue
            column: AnyArray = single[source]
            if source in _PACKED:
                column = _colour(column, _COLOURS[name])
            elif name == 'time_s':
                # Points without a return often carry 0, which is no time.
                sweep[:, i] = _seconds(column if everything else column[kept], stamp_ns)
                continue
            sweep[:, i] = column if everything else column[kept]
    return sweep


def _sources(names: list[str]) -> dict[str, str]:
    """Return the field that each column comes from, in the order of the columns."""
    sources = {axis: axis for axis in 'xyz'}
    for column, known in _NAMES.items():
        found = next((name for name in known if name in names), None)
        if found is not None:
            sources[column] = found
    packed = next((name for name in _PACKED if name in names), None)
    if packed is not None:
        sources |= dict.fromkeys(_COLOURS, packed)
    taken = {*sources.values(), *_PACKED}
    return sources | {n: n for n in names if n not in taken and n not in sources}


def _with_return(xyz: npt.NDArray[np.float32]) -> Mask:
    x, y, z = xyz.T
    # Column by column is several times faster than along the short axis.
    finite: Mask = np.isfinite(x) & np.isfinite(y) & np.isfinite(z)
    return finite & ((x != 0) | (y != 0) | (z != 0))


def _colour(packed: AnyArray, shift: int) -> AnyArray:
    if packed.dtype.itemsize != 4:
        return np.full(len(packed), np.nan)
    return (packed.view(np.uint32) >> shift) & 0xFF


def _seconds(stored: AnyArray, stamp_ns: int) -> Array:
    """Return seconds since the stamp.

    Integers (32 bits at most) are offsets in nanoseconds, single floats in seconds; doubles are
    either offsets in seconds or times on a clock, whose unit their size tells.
    """
    if stored.dtype.kind in 'iu':
        seconds: Array = stored / 1e9
    else:
        seconds = stored.astype(np.float64)
        largest = np.abs(seconds[np.isfinite(seconds)]).max(initial=0.0)
        unit_ns = next((unit for least, unit in _CLOCKS if largest >= least), None)
        if unit_ns is not None and stored.dtype.itemsize == 8:  # singles cannot hold a clock
            # The difference of two close doubles is exact: whole units first, then the rest.
            units, rest_ns = divmod(stamp_ns, unit_ns)
            seconds = ((seconds - units) * unit_ns - rest_ns) / 1e9
    if not (np.abs(seconds[np.isfinite(seconds)]) < _MAX_OFFSET_S).all():
        return np.full(len(seconds), np.nan)  # another unit or clock: then no value means anything
    return seconds
