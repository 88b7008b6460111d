"""One exception family. Core code raises these; shells (node, command line) decide what to do.

Every message is one line that names the topic, frame, field or file and the offending value.
"""

from __future__ import annotations


class BevError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(BevError):
    """A setting is out of its range, unknown or contradicts another one."""


class CalibrationError(BevError):
    """A camera's intrinsics or distortion cannot be used."""


class MessageError(BevError):
    """A message's content cannot be read."""


class TransformUnavailable(BevError):
    """A transform cannot be given at the asked time.

    Attributes:
        may_arrive: True when a newer message could still bring it (the frames are connected, the
            time lies after the newest sample), so that waiting makes sense.
    """

    def __init__(self, message: str, *, may_arrive: bool = False) -> None:
        super().__init__(message)
        self.may_arrive = may_arrive


class SyncError(BevError):
    """An item cannot be synchronised."""


class CheckpointError(BevError):
    """A weights file is missing, of another kind or does not fit."""


class BagError(BevError):
    """A recording cannot be read or written."""
