"""A .npy file that is written row by row, however many rows there will be."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bev_perception.shapes import AnyArray

_HEADER_BYTES = 192  # a multiple of 64, as the format wants it; enough for any shape here


class ArrayFile:
    """Writes an array of unknown length along its first axis; the header comes last.

    Use it in a `with` block; at its end the file is a plain .npy.
    """

    def __init__(self, path: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
        """Open the file.

        Args:
            path: the file.
            dtype: of the array.
            shape: of one row.

        Raises:
            OSError: it cannot be written.
        """
        self._dtype, self._shape, self._rows = dtype, shape, 0
        self._file = path.open('wb')
        self._file.seek(_HEADER_BYTES)

    def add(self, rows: AnyArray) -> None:
        """Append rows (n, *shape).

        Raises:
            OSError: they cannot be written.
            ValueError: they are of another shape.
        """
        if rows.shape[1:] != self._shape:
            raise ValueError(f'rows are {rows.shape[1:]}, not {self._shape}')
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self._rows += len(rows)

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            shape = (self._rows, *self._shape)
            told = {'descr': self._dtype.str, 'fortran_order': False, 'shape': shape}
            magic = np.lib.format.magic(1, 0)
            length = _HEADER_BYTES - len(magic) - 2
            self._file.seek(0)
            self._file.write(magic + length.to_bytes(2, 'little'))
            self._file.write(repr(told).ljust(length - 1).encode('ascii') + b'\n')
