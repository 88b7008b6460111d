"""The selector of `bev convert`, which also tells of what becomes no frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from bev_perception.errors import MessageError
from bev_perception.sync import SyncConfig, SyncedSet, ViewSynchronizer
from bev_training.data.beginning import Beginning
from bev_training.data.frames import FrameSelector
from bev_training.data.settings import ConvertConfig
from bev_training.data.topics import RigTopics
from bev_training.data.video import VideoDecoder, image_size

_KEPT_STAMPS = 3_000  # of images, about 40 s of six cameras

SetSeen = Callable[[SyncedSet[Any]], None]
ImageSeen = Callable[[str, tuple[int, int]], None]


class WatchedSelector(FrameSelector):
    """Tells of every image and of every set, before it is known whether they can be used.

    Attributes:
        stamps: camera and stamp of the newest images, in the order in which they came.
    """

    def __init__(
        self,
        rig: RigTopics,
        config: ConvertConfig,
        beginning: Beginning,
        *,
        image_seen: ImageSeen,
        set_seen: SetSeen,
    ) -> None:
        """Start with what is known before the first message.

        Raises:
            ConfigError: a package for video is missing.
        """
        super().__init__(rig, config, beginning)
        sync = _WatchedSync(self.sync.config, image_seen, set_seen)
        self.sync, self.stamps = sync, sync.stamps

    @property
    def decoders(self) -> Mapping[str, VideoDecoder]:
        """Of cameras that send video."""
        return self._intake.decoders


class _WatchedSync(ViewSynchronizer[Any]):
    def __init__(self, config: SyncConfig, image_seen: ImageSeen, set_seen: SetSeen) -> None:
        super().__init__(config)
        self.stamps: deque[tuple[str, int]] = deque(maxlen=_KEPT_STAMPS)
        self._image_seen, self._seen = image_seen, set_seen

    def push(self, camera: str, stamp_ns: int, item: Any) -> list[SyncedSet[Any]]:
        try:
            self._image_seen(camera, image_size(item))
        except MessageError:  # damaged, which is counted elsewhere
            pass
        else:
            self.stamps.append((camera, stamp_ns))
        sets = super().push(camera, stamp_ns, item)
        for synced in sets:
            self._seen(synced)
        return sets

    def flush(self) -> list[SyncedSet[Any]]:
        sets = super().flush()
        for synced in sets:
            self._seen(synced)
        return sets
