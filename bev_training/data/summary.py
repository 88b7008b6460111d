"""What was converted, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DriveSummary:
    """One converted recording.

    Attributes:
        name: of the drive.
        path: where it lies.
        frames: key frames.
        images: stored images.
        sweeps: stored lidar sweeps.
        epochs: calibrations.
        seconds: from the first to the last frame.
        metres: straight lines from frame to frame; 0 without odometry.
        size_bytes: of all files.
        counts: by name, what was left out or repaired: 'sets', 'sets_too_close',
            'images_damaged', 'stamps_from_bag', 'messages_unreadable', ...
    """

    name: str
    path: str
    frames: int
    images: int
    sweeps: int
    epochs: int
    seconds: float
    metres: float
    size_bytes: int
    counts: Mapping[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), 'counts': dict(self.counts)}
