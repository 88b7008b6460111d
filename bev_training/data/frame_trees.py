"""Which frames of a recording are connected, from a bounded look at its transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice

from bev_perception.errors import MessageError
from bev_perception.messages import read_transform
from bev_perception.transforms import StampedTransform
from bev_training.data.bag_reader import Recording

_STATIC_MESSAGES = 20_000
_FIRST_MESSAGES = 5_000
_LATER_PLACES, _LATER_MESSAGES = 7, 500  # where the first ones do not suffice
_LISTED_TREES, _LISTED_FRAMES = 6, 20


class FrameTrees:
    """Frames with their parents, without poses."""

    def __init__(self) -> None:
        """Start empty."""
        self._parents: dict[str, str] = {}
        self._frames: set[str] = set()

    def add(self, parent: str, child: str) -> None:
        """Take in an edge; the newer parent counts, a loop is refused (as in `TransformTree`)."""
        if child not in self.above(parent):
            self._parents[child] = parent
            self._frames |= {parent, child}

    def above(self, frame: str) -> list[str]:
        """Return a frame and its ancestors, upwards."""
        chain = [frame]
        while chain[-1] in self._parents:
            chain.append(self._parents[chain[-1]])
        return chain

    def connected(self, one: str, other: str) -> bool:
        """Whether both frames are known and in one tree."""
        known = one in self._frames and other in self._frames
        return known and self.above(one)[-1] == self.above(other)[-1]

    def __str__(self) -> str:
        """Name the trees by their roots, with the frames of each."""
        trees: dict[str, list[str]] = {}
        for frame in sorted(self._frames):
            root = self.above(frame)[-1]
            trees.setdefault(root, []).extend([frame] if frame != root else [])
        if not trees:
            return 'TF has no frames'
        texts = []
        for root, frames in list(trees.items())[:_LISTED_TREES]:
            more = ', ...' if len(frames) > _LISTED_FRAMES else ''
            listed = ', '.join(map(_printed, frames[:_LISTED_FRAMES]))
            texts.append(f'{_printed(root)} ({listed}{more})')
        more = f' and {len(trees) - _LISTED_TREES} more' if len(trees) > _LISTED_TREES else ''
        return f'the trees of TF are {"; ".join(texts)}{more}'


def _printed(frame: str) -> str:
    """Return a name for an error; one of a damaged message may hold anything."""
    return frame if frame.isprintable() else repr(frame)


def look_at_frames(
    recording: Recording,
    tf: Sequence[str],
    tf_static: Sequence[str],
    enough: Callable[[FrameTrees], bool],
) -> FrameTrees:
    """Return the frames that static transforms and some of the moving ones connect.

    Moving transforms are read from the beginning, and where that is not enough, at a few places
    spread over the recording, since localisation may start late.

    Args:
        recording: open.
        tf: topics of moving transforms.
        tf_static: topics of static ones.
        enough: asked now and then whether to stop.

    Raises:
        BagError: the recording is damaged.
    """
    trees = FrameTrees()
    for transform in transforms_of(recording, tf_static, limit=_STATIC_MESSAGES):
        trees.add(transform.parent, transform.child)
    if enough(trees) or not tf:
        return trees
    for transform in transforms_of(recording, tf, limit=_FIRST_MESSAGES):
        before = trees.above(transform.child)[1:2]
        trees.add(transform.parent, transform.child)
        if before != [transform.parent] and enough(trees):
            return trees
    length_ns = recording.end_ns - recording.start_ns
    for place in range(1, _LATER_PLACES + 1):
        from_ns = recording.start_ns + length_ns * place // (_LATER_PLACES + 1)
        for transform in transforms_of(recording, tf, limit=_LATER_MESSAGES, start_ns=from_ns):
            trees.add(transform.parent, transform.child)
        if enough(trees):
            break
    return trees


def transforms_of(
    recording: Recording,
    topics: Sequence[str],
    *,
    limit: int | None = None,
    start_ns: int | None = None,
) -> Iterator[StampedTransform]:
    """Yield the transforms of TFMessage topics; those that are none are left out.

    Args:
        recording: open.
        topics: names.
        limit: messages to read at most.
        start_ns: bag time to start at.

    Raises:
        BagError: the recording is damaged.
    """
    if not topics:
        return
    with closing(recording.messages(topics, start_ns)) as messages:
        for _, _, message in islice(messages, limit):
            for item in message.transforms:
                try:
                    yield read_transform(item)
                except MessageError:  # counted where the recording is read as a whole
                    continue
