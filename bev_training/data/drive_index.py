"""`frames.parquet`: one row per frame, written as a stream, read a few rows at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bev_perception.errors import BagError
from bev_perception.shapes import Rigid
from bev_training.data.file_writer import FileWriter
from bev_training.data.frame import EncodedImage, Frame, FrameView, LidarSweep
from bev_training.data.paths import is_local, remote
from bev_training.data.settings import FORMAT
from bev_training.data.shards import Placed, key_of

INDEX = 'frames.parquet'
ROWS_PER_GROUP = 64  # read at once; more would slow random access, fewer lengthen the file's end
_GROUPS_KEPT = 8

_POSE = pa.list_(pa.float64(), 16)  # dst_T_src, row by row


def _schema() -> pa.Schema:
    place = [('member', pa.string()), ('offset', pa.int64()), ('size_bytes', pa.int64())]
    view = pa.struct(
        [
            ('camera', pa.string()),
            ('stamp_ns', pa.int64()),
            *place,
            ('width', pa.int32()),
            ('height', pa.int32()),
            ('format', pa.string()),
            ('ego_T_cam', _POSE),
            ('odom_T_base', _POSE),
        ]
    )
    sweep = pa.struct(
        [
            ('lidar', pa.string()),
            ('stamp_ns', pa.int64()),
            ('first', pa.int64()),
            ('points', pa.int64()),
            ('ego_T_lidar', _POSE),
        ]
    )
    cloud = pa.struct([('lidar', pa.string()), *place])
    return pa.schema(
        [
            ('frame', pa.int64()),
            ('key', pa.string()),
            ('stamp_ns', pa.int64()),
            ('sequence', pa.int64()),
            ('previous', pa.int64()),
            ('next', pa.int64()),
            ('epoch', pa.int32()),
            ('odom_T_ego', _POSE),
            ('base_T_ego', _POSE),
            ('spread_s', pa.float64()),
            ('shard', pa.string()),
            ('live', pa.list_(pa.bool_())),
            ('views', pa.list_(view)),
            ('sweeps', pa.list_(sweep)),
            ('clouds', pa.list_(cloud)),
        ]
    )


SCHEMA = _schema()


def frame_row(
    number: int,
    frame: Frame,
    cameras: Sequence[str],
    shard: str,
    images: Mapping[str, Placed],
    clouds: Mapping[str, Placed],
) -> dict[str, Any]:
    """Return a frame's row, without its neighbours.

    Args:
        number: of the frame, from 0.
        frame: the frame.
        cameras: of the drive, in order.
        shard: the file that holds its members.
        images: where the images lie, by camera.
        clouds: where the sweeps lie, by lidar; a lidar's sweeps are in one array.
    """
    rows = dict.fromkeys(clouds, 0)
    sweeps = []
    for sweep in frame.sweeps:
        first, points = rows[sweep.lidar], len(sweep.points)
        rows[sweep.lidar] += points
        sweeps.append(
            {
                'lidar': sweep.lidar,
                'stamp_ns': sweep.stamp_ns,
                'first': first,
                'points': points,
                'ego_T_lidar': numbers(sweep.ego_T_lidar),
            }
        )
    return {
        'frame': number,
        'key': key_of(number),
        'stamp_ns': frame.stamp_ns,
        'sequence': frame.sequence,
        'previous': None,
        'next': None,
        'epoch': frame.epoch,
        'odom_T_ego': numbers(frame.odom_T_ego),
        'base_T_ego': numbers(frame.base_T_ego),
        'spread_s': float(frame.spread_s),
        'shard': shard,
        'live': [name in images for name in cameras],
        'views': [
            {
                'camera': view.camera,
                'stamp_ns': view.stamp_ns,
                **vars(images[view.camera]),
                'width': view.image.size_px[0],
                'height': view.image.size_px[1],
                'format': view.image.format,
                'ego_T_cam': numbers(view.ego_T_cam),
                'odom_T_base': numbers(view.odom_T_base),
            }
            for view in frame.views
        ],
        'sweeps': sweeps,
        'clouds': [{'lidar': name, **vars(placed)} for name, placed in clouds.items()],
    }


def row_frame(
    row: Mapping[str, Any],
    cameras: Sequence[str],
    images: Mapping[str, bytes],
    clouds: Mapping[str, np.ndarray],
    columns: Mapping[str, int],
) -> Frame:
    """Return the frame of a row; what is not given (an image, a lidar's points) is empty.

    Args:
        row: from the index.
        cameras: of the drive, in order.
        images: bytes by camera.
        clouds: (n, c) points by lidar.
        columns: number of columns by lidar.
    """
    views = tuple(
        FrameView(
            camera=view['camera'],
            stamp_ns=view['stamp_ns'],
            image=EncodedImage(
                data=images.get(view['camera'], b''),
                suffix=view['member'].rpartition('.')[2],
                size_px=(view['width'], view['height']),
                format=view['format'],
            ),
            ego_T_cam=matrix(view['ego_T_cam']),
            odom_T_base=None if view['odom_T_base'] is None else matrix(view['odom_T_base']),
        )
        for view in row['views']
    )
    sweeps = []
    for sweep in row['sweeps']:
        cloud = clouds.get(sweep['lidar'])
        if cloud is None:
            points = np.empty((0, columns[sweep['lidar']]), np.float32)
        else:
            points = cloud[sweep['first'] : sweep['first'] + sweep['points']].copy()
        sweeps.append(
            LidarSweep(
                lidar=sweep['lidar'],
                stamp_ns=sweep['stamp_ns'],
                points=points,
                ego_T_lidar=matrix(sweep['ego_T_lidar']),
            )
        )
    return Frame(
        stamp_ns=row['stamp_ns'],
        epoch=row['epoch'],
        sequence=row['sequence'],
        odom_T_ego=None if row['odom_T_ego'] is None else matrix(row['odom_T_ego']),
        base_T_ego=matrix(row['base_T_ego']),
        views=views,
        missing=tuple(n for n, live in zip(cameras, row['live'], strict=True) if not live),
        sweeps=tuple(sweeps),
        spread_s=row['spread_s'],
    )


def numbers(pose: Rigid | None) -> list[float] | None:
    """Return a pose (4, 4) as 16 numbers, row by row."""
    return None if pose is None else np.asarray(pose, np.float64).ravel().tolist()


def matrix(values: Sequence[float]) -> Rigid:
    """Return the pose (4, 4) of 16 numbers."""
    return np.array(values, np.float64).reshape(4, 4)


class _Sink:
    """What pyarrow writes to; deaf once closed, so that an abandoned writer harms nothing."""

    def __init__(self, files: FileWriter) -> None:
        self.files: FileWriter | None = files
        self.closed = False

    def write(self, data: bytes) -> int:
        if self.files is not None:
            self.files.write([data])
        return len(data)

    def flush(self) -> None:
        """Do nothing: `FileWriter` flushes."""

    def close(self) -> None:
        self.closed = True


class IndexWriter:
    """Writes rows as they come; only those of one group wait in memory."""

    def __init__(self, files: FileWriter, cameras: Sequence[str]) -> None:
        """Open the file.

        Raises:
            BagError: it cannot be written.
        """
        files.begin(INDEX)
        self._files = files
        self._sink = _Sink(files)
        names = ','.join(cameras)
        self._schema = SCHEMA.with_metadata({'drive_format': str(FORMAT), 'cameras': names})
        self._writer = pq.ParquetWriter(
            self._sink,
            self._schema,
            compression='zstd',
            write_page_checksum=True,
            write_statistics=['frame', 'stamp_ns', 'sequence', 'epoch'],
        )
        self._rows: list[dict[str, Any]] = []
        self._last: dict[str, Any] | None = None

    def add(self, row: dict[str, Any]) -> None:
        """Append a row and link it with the one before if both are of the same sequence.

        Raises:
            BagError: something could not be written.
        """
        last = self._last
        if last is not None and last['sequence'] == row['sequence']:
            row['previous'], last['next'] = last['frame'], row['frame']
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()
        self._rows.append(row)
        self._last = row

    def finish(self) -> None:
        """Let the file appear.

        Raises:
            BagError: something could not be written.
        """
        self._flush()
        self._writer.close()
        self._files.end()

    def abort(self) -> None:
        """Drop the file."""
        self._sink.files = None
        self._writer.close()
        self._files.abort()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows = []


class Index:
    """The rows of a finished drive. Safe to use from several threads and after a fork.

    The file is opened whenever rows are read, so that a thousand drives can be open at once; what
    its end says of its parts is kept.
    """

    def __init__(self, path: Path, cameras: Sequence[str]) -> None:
        """Look at the file; rows are read when they are asked for.

        Raises:
            BagError: it is damaged, or of another version or rig.
        """
        self.path = path
        with _opened(path) as file:
            metadata, schema = file.metadata, file.schema_arrow
        if not schema.equals(SCHEMA):
            raise BagError(f'{path} has other columns than version {FORMAT} of a drive')
        stated = (schema.metadata or {}).get(b'cameras', b'').decode('ascii', 'replace')
        if stated != ','.join(cameras):
            raise BagError(f'{path} is of the cameras {stated!r}, manifest.json of {cameras}')
        self._metadata = metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *sizes]).tolist()
        self._group = lru_cache(_GROUPS_KEPT)(self._read_group)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def row(self, number: int) -> dict[str, Any]:
        """Return a row as plain values.

        Raises:
            IndexError: there is no such frame.
            BagError: it is damaged.
        """
        if not 0 <= number < len(self):
            raise IndexError(f'frame {number} of a drive with {len(self)} frames')
        group = bisect_right(self._starts, number) - 1
        row: dict[str, Any]
        (row,) = self._group(group).slice(number - self._starts[group], 1).to_pylist()
        return row

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield all rows in order.

        Raises:
            BagError: it is damaged.
        """
        for group in range(len(self._starts) - 1):
            yield from self._read_group(group).to_pylist()

    def column(self, name: str) -> list[Any]:
        """Return one column of all rows, plain values.

        Raises:
            BagError: it is damaged.
        """
        values: list[Any] = self._read(None, [name]).column(0).to_pylist()
        return values

    def _read_group(self, group: int) -> pa.Table:
        return self._read([group], None)

    def _read(self, groups: list[int] | None, columns: list[str] | None) -> pa.Table:
        groups = list(range(len(self._starts) - 1)) if groups is None else groups
        with _opened(self.path, self._metadata) as file:
            return file.read_row_groups(groups, columns, use_threads=False)


@contextmanager
def _opened(path: Path, metadata: Any = None) -> Iterator[pq.ParquetFile]:
    try:
        # Read, not mapped: a mapped file that is cut off meanwhile would end the process.
        with remote(path), pa.OSFile(str(path)) if is_local(path) else path.open('rb') as source:
            yield pq.ParquetFile(source, metadata=metadata, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise BagError(f'{path} is missing; convert the recording again') from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BagError(_damaged(path, error)) from error


def _damaged(path: Path, error: Exception) -> str:
    line = ' '.join(str(error).split())
    return f'{path} is damaged ({line}); convert the recording again'
