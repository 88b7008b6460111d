"""Small recordings with one thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from bev_training import messages
from bev_training.data.settings import ConvertConfig
from test.data.small_bag import Entry, SmallDrive, changed, write_entries

CONFIG = ConvertConfig(min_cameras=2)
SECONDS = 3.0
Edit = Callable[[list[Entry]], list[Entry]]


def edited(entry: Entry, change: Callable[[object], object]) -> Entry:
    """The entry with its message changed in place by `change`."""
    message = messages.TYPESTORE.deserialize_cdr(entry.data, entry.type)
    change(message)
    data = bytes(messages.TYPESTORE.serialize_cdr(message, entry.type))
    return changed(entry, data=data)


def put(target: object, **values: object) -> None:
    """Set fields of a message."""
    for name, value in values.items():
        object.__setattr__(target, name, value)


def stamped_later(entry: Entry, seconds: float) -> Entry:
    """The entry with another header stamp."""

    def change(message):
        at = message.header.stamp
        total = at.sec * 10**9 + at.nanosec + round(seconds * 1e9)
        put(at, sec=total // 10**9, nanosec=total % 10**9)

    return edited(entry, change)


def later(entry: Entry, seconds: float) -> Entry:
    """The entry recorded later."""
    return changed(entry, time_ns=entry.time_ns + round(seconds * 1e9))


def each(name: str, change: Callable[[int, Entry], Entry | None]) -> Edit:
    """Change every message of the topics that hold a name: (number, entry) -> entry or None."""

    def edit(entries):
        out, number = [], 0
        for entry in entries:
            if name in entry.topic:
                entry = change(number, entry)
                number += 1
            if entry is not None:
                out.append(entry)
        return sorted(out, key=lambda e: e.time_ns)

    return edit


def message_of(
    name: str, change: Callable[[object], None], only: Callable[[int], bool] = lambda i: True
) -> Edit:
    """Change the content of messages of a topic."""
    return each(name, lambda i, e: edited(e, change) if only(i) else e)


def moved(child: str, pose: np.ndarray | None) -> Edit:
    """Put a static frame elsewhere, or leave it out."""

    def change(message):
        kept = [t for t in message.transforms if t.child_frame_id != child]
        if pose is not None:
            data = messages.transforms(0, {('base_link', child): pose})
            extra = messages.TYPESTORE.deserialize_cdr(data, messages.TF)
            kept += extra.transforms
        put(message, transforms=kept)

    return message_of('/tf_static', change)


def write(path: Path, edit: Edit = lambda entries: entries, **values) -> Path:
    """Write a small drive of 3 s with three cameras, changed by `edit`."""
    folder = write_entries(path, edit(list(_entries(**values))))
    return next(folder.glob('*.mcap'))  # opens faster than its folder


@cache
def _entries(**values) -> tuple[Entry, ...]:
    return tuple(SmallDrive(**{'seconds': SECONDS, **values}).entries())
