"""What a run says of its steps: OUT/metrics.csv and OUT/tensorboard/."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bev_training.data.paths import write_whole


class RunTable:
    """A row per optimiser step; validations fill further columns of theirs.

    Attributes:
        path: OUT/metrics.csv.
        on_board: whether TensorBoard gets the same; it does where it is installed.
    """

    def __init__(self, out: Path, columns: Sequence[str], *, steps_done: int) -> None:
        """Open the table; rows after `steps_done` are of a run that was cut off, and go.

        Args:
            out: folder.
            columns: names, after `step`; those that the rows before have besides stay.
            steps_done: 0 begins anew.

        Raises:
            OSError: it cannot be written.
        """
        self.path = out / 'metrics.csv'
        kept = [row for row in _rows(self.path) if int(row['step']) <= steps_done]
        self._columns = tuple(dict.fromkeys(['step', *columns, *(n for row in kept for n in row)]))
        head = dict(zip(self._columns, self._columns, strict=True))
        write_whole(self.path, self._text([head, *kept]).encode())
        self._file = self.path.open('a', encoding='utf-8', newline='')
        self._board = _board(out / 'tensorboard', steps_done)
        self.on_board = self._board is not None

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add the row of a step.

        Raises:
            OSError: it cannot be written.
        """
        row = {'step': str(step), **{name: f'{value:.8g}' for name, value in values.items()}}
        self._file.write(self._text([row]))
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(_tag(name), value, step)

    def _text(self, rows: Sequence[Mapping[str, str]]) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval='', lineterminator='\n')
        writer.writerows(rows)
        return text.getvalue()

    def __enter__(self) -> RunTable:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_columns(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) of each column of a table, where it has a value."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in _rows(path):
        for name, text in row.items():
            if name != 'step' and text:
                found.setdefault(name, []).append((int(row['step']), float(text)))
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    """Return the whole rows of a table; a power cut may have left half a row, or zero bytes."""
    if not path.is_file():
        return []
    text = path.read_text(encoding='utf-8', errors='replace').replace('\0', '')
    whole = [line for line in text.splitlines(keepends=True) if line.endswith('\n')]
    rows = csv.DictReader(io.StringIO(''.join(whole)))
    return [row for row in rows if (row.get('step') or '').isdecimal() and None not in row]


def _tag(column: str) -> str:
    group, _, name = column.partition('_')
    return f'val/{name}' if group == 'val' else f'train/{column}'


def _board(folder: Path, steps_done: int) -> Any:
    """Return TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    # What a run wrote after the step where it goes on is not shown any more.
    return SummaryWriter(str(folder), purge_step=steps_done + 1)
