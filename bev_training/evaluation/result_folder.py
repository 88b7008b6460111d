"""Folders of results: they appear whole, and replace only results of the same kind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bev_perception.errors import BagError
from bev_training.folders import entries, hidden_folder


@contextmanager
def result_folder(out: Path, *, kind: str, names: Collection[str]) -> Iterator[Path]:
    """Give a hidden folder whose contents are in `out` at the end, or nowhere.

    Earlier results of the same kind in `out` are replaced whole; anything else there is an error,
    at once. The folder must get a file `KIND.json` that holds {"kind": KIND}.

    Args:
        out: the folder.
        kind: of the results, such as 'evaluation'.
        names: all that such a folder may hold.

    Raises:
        BagError: `out` holds something else, or cannot be written.
    """
    target = Path(os.path.realpath(out))
    check_results(out, kind=kind, names=names)
    try:
        with hidden_folder(target.parent) as work:
            new = work / 'new'
            new.mkdir()
            yield new
            check_results(out, kind=kind, names=names)  # it took a while
            _replace(target, new, work / 'old')
    except OSError as error:  # of whoever writes: so with the name of the file
        raise BagError(f'{out} cannot be written: {error}') from error


def check_results(out: Path, *, kind: str, names: Collection[str]) -> None:
    """See that a folder may be replaced.

    Raises:
        BagError: it holds something that is no result of this kind.
    """
    found = [path.name for path in entries(out)]
    strange = [name for name in found if name not in names]
    if not strange and (not found or _kind(out / f'{kind}.json') == kind):
        return
    what = f'{strange[0]}, which is' if strange else 'something that is'
    raise BagError(f'{out} holds {what} no result of an earlier {kind}; choose another --out')


def _replace(target: Path, new: Path, old: Path) -> None:
    """Move a folder to where another may be, which takes its place if that fails."""
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    except BaseException:  # a Ctrl-C too
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _kind(path: Path) -> Any:
    try:
        described = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return described.get('kind') if isinstance(described, dict) else None
