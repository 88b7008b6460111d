"""Columns for the millions of records of a data set in nuScenes' format: tens of bytes for each
instead of hundreds.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

_Value = TypeVar('_Value', bound=Hashable)
_TOKEN = 'S16'
_BATCH = 1024  # poses that are looked up at once


class Distinct(Generic[_Value]):
    """Values that come again and again, each held once under a number."""

    def __init__(self) -> None:
        """Start empty."""
        self._numbers: dict[_Value, int] = {}
        self._values: list[_Value] = []

    def number(self, value: _Value) -> int:
        """Return the number of a value."""
        number = self._numbers.setdefault(value, len(self._values))
        if number == len(self._values):
            self._values.append(value)
        return number

    def __getitem__(self, number: int) -> _Value:
        """Return the value of a number."""
        return self._values[number]


class FileNames:
    """Names of files, which are held without the time in them: so they are few."""

    def __init__(self) -> None:
        """Start empty."""
        self._patterns: Distinct[tuple[str, str] | str] = Distinct()

    def number(self, file: str, time_us: int) -> int:
        """Return the number of a name.

        Args:
            file: the name.
            time_us: of what is in it; needed again to get the name.
        """
        before, time, after = file.partition(str(time_us))
        return self._patterns.number((before, after) if time else file)

    def name(self, number: int, time_us: int) -> str:
        """Return the name."""
        pattern = self._patterns[number]
        return pattern if isinstance(pattern, str) else str(time_us).join(pattern)


class Poses:
    """Poses that records name by tokens, in any order: a time and seven numbers for each.

    Attributes:
        times_us: (n,).
        values: (n, 7): translation x, y, z and rotation w, x, y, z.
    """

    def __init__(self, tokens: Sequence[bytearray]) -> None:
        """Make room.

        Args:
            tokens: what `short` made of the tokens that are wanted, one after the other, of each
                scene. `numbers` tells, in the same order, which rows are theirs.
        """
        parts = [np.frombuffer(part, _TOKEN) for part in tokens]
        every = np.concatenate(parts) if parts else np.zeros(0, _TOKEN)
        self._tokens, inverse = np.unique(every, return_inverse=True)
        ends = np.cumsum([len(part) for part in parts])[:-1]
        self.numbers = np.split(inverse.astype(np.int32), ends)
        self.times_us = np.zeros(len(self._tokens), np.int64)
        self.values: npt.NDArray[np.float64] = np.zeros((len(self._tokens), 7))
        self._found = np.zeros(len(self._tokens), np.bool_)

    def fill(self, records: Iterable[dict[str, Any]]) -> int:
        """Take the poses from records of the table ego_pose.

        Returns:
            How many are missing.

        Raises:
            KeyError: a record lacks something.
            ValueError: a record is no pose, or is none of numbers (TypeError, OverflowError).
        """
        batch: list[dict[str, Any]] = []
        for record in records:
            batch.append(record)
            if len(batch) == _BATCH:
                self._take(batch)
                batch.clear()
        self._take(batch)
        return len(self._found) - int(np.count_nonzero(self._found))

    def _take(self, batch: Sequence[dict[str, Any]]) -> None:
        if not batch or not len(self._tokens):
            return
        tokens = np.frombuffer(b''.join(short(record['token']) for record in batch), _TOKEN)
        rows = np.searchsorted(self._tokens, tokens).clip(max=len(self._tokens) - 1)
        for at in np.flatnonzero(self._tokens[rows] == tokens).tolist():
            row, record = rows[at], batch[at]
            self.times_us[row] = int(record['timestamp'])
            self.values[row] = _numbers(record)
            self._found[row] = True


def short(token: str) -> bytes:
    """Return 16 bytes that stand for a token, which may be any text."""
    return hashlib.blake2b(token.encode(), digest_size=16).digest()


def new_column(kind: str) -> array[int]:
    """Return an empty column: 'q' for 8 bytes with a sign, 'I' for 4 without."""
    return array(kind)


def _numbers(record: dict[str, Any]) -> list[float]:
    translation, rotation = record['translation'], record['rotation']
    if len(translation) != 3 or len(rotation) != 4:
        raise ValueError(f'rotation {rotation}, translation {translation}')
    values = [float(value) for value in (*translation, *rotation)]
    if not 0.25 < sum(value * value for value in values[3:]) < 4:
        raise ValueError(f'rotation {rotation} is none')
    if not np.isfinite(values).all():
        raise ValueError(f'translation {translation} is none')
    return values
