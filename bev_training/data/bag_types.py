"""Message types of a recording: bytes → message, by the definition that was recorded with it.

Every type has a store of its own, made when a topic of it is read: two definitions that
contradict each other, or one that cannot be parsed, concern nobody who does not read them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from rosbags.interfaces import Connection, MessageDefinition, MessageDefinitionFormat
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from bev_perception.errors import MessageError
from bev_training.data.bag_files import one_line

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# What the stores of rosbags lack: in ROS 2, video types that recorders often write without a
# definition; field by field as published.
_MORE_ROS2 = {
    'foxglove_msgs/msg/CompressedVideo': (
        'builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n'
    ),
    'ffmpeg_image_transport_msgs/msg/FFMPEGPacket': (
        'std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\n'
        'uint8 flags\nbool is_bigendian\nuint8[] data\n'
    ),
}
_MORE_ROS1 = {
    'tf2_msgs/msg/TFMessage': 'geometry_msgs/TransformStamped[] transforms\n',
    'tf/msg/tfMessage': 'geometry_msgs/TransformStamped[] transforms\n',
}
# Types whose fields are used here. A recorded definition that lacks one is damaged, even if it
# can be parsed.
_USED = frozenset(
    (
        'sensor_msgs/msg/Image',
        'sensor_msgs/msg/CompressedImage',
        'sensor_msgs/msg/CameraInfo',
        'sensor_msgs/msg/PointCloud2',
        'nav_msgs/msg/Odometry',
        'geometry_msgs/msg/PoseStamped',
        'geometry_msgs/msg/PoseWithCovarianceStamped',
        'tf2_msgs/msg/TFMessage',
        'tf/msg/tfMessage',
        *_MORE_ROS2,
    )
)
_ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'  # a serialised ROS 2 message begins with 0
_IDL_SEPARATOR = '=' * 80 + '\n'


class MessageTypes:
    """Gives a function for every connection that makes messages of its bytes."""

    def __init__(self, *, ros1: bool) -> None:
        """Start with the types that every recording may use without definition."""
        self._ros1 = ros1
        # Recorders of Humble and before write no definitions.
        self._known = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
        for name, text in (_MORE_ROS1 if ros1 else _MORE_ROS2).items():
            self._known.register(get_types_from_msg(text, name))
        self._readers: dict[tuple[str, MessageDefinition], Callable[[bytes], Any]] = {}

    def reader(self, connection: Connection) -> Callable[[bytes], Any]:
        """Return the function that deserialises a connection's messages.

        Raises:
            MessageError: its type is not known.
        """
        encoding = getattr(connection.ext, 'serialization_format', 'cdr')
        if encoding != 'cdr':
            raise MessageError(f'messages are encoded as {encoding!r}; only cdr can be read')
        key = connection.msgtype, connection.msgdef
        if key not in self._readers:
            self._readers[key] = self._make(*key)
        return self._readers[key]

    def _make(self, name: str, definition: MessageDefinition) -> Callable[[bytes], Any]:
        store, problem = self._known, 'the recording has no definition of it'
        if definition.format != MessageDefinitionFormat.NONE:
            try:
                own = _own_store(name, definition)
                if name in _USED:
                    _refuse_difference(own, self._known)
                store = own
            except Exception as error:  # the parser raises what the text leads it to
                problem = f'its definition cannot be used: {one_line(error)}'
        if name not in store.fielddefs:
            raise MessageError(f'type {name} is unknown: {problem}')
        if self._ros1:
            return lambda data: store.deserialize_ros1(data, name)

        def read(data: bytes) -> Any:
            if data[:4] == _ZSTD_MAGIC:
                data = zstd.decompress(data)
            # As a view, since rosbags cuts the first bytes off, which copies all of an image.
            return store.deserialize_cdr(memoryview(data), name)

        return read


@lru_cache(maxsize=256)  # recordings of a fleet have the same types
def _own_store(name: str, definition: MessageDefinition) -> Typestore:
    store = get_typestore(Stores.EMPTY)
    store.register(_parsed(name, definition))
    store.get_msgdef(name)
    return store


def _refuse_difference(own: Typestore, known: Typestore) -> None:
    """Refuse definitions that lack a field of the types that both have.

    Raises:
        ValueError: names the field.
    """
    for name, (_, fields) in own.fielddefs.items():
        if name in known.fielddefs:
            have = [(_plain(field), kind) for field, kind in fields]
            for field, kind in known.fielddefs[name][1]:
                if (_plain(field), kind) not in have:
                    raise ValueError(f'{name} has no field {field!r} of the published type')


def _plain(field: str) -> str:
    """K and k are the same: ROS 1 and ROS 2 write CameraInfo's matrices so."""
    return field.lower() if len(field) == 1 else field


def _parsed(name: str, definition: MessageDefinition) -> Any:
    text = definition.data
    if definition.format == MessageDefinitionFormat.MSG:
        return get_types_from_msg(text, name)
    if not text.startswith(f'{_IDL_SEPARATOR}IDL: '):
        return get_types_from_idl(text)
    types: dict[str, Any] = {}
    for part in text.split(_IDL_SEPARATOR)[1:]:
        types.update(get_types_from_idl(part.split('\n', 1)[1]))
    return types
