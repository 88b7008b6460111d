"""Short videos and the messages that carry them, made on the spot with PyAV (a test that uses this
module calls `pytest.importorskip('av')` first).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from bev_training.data.video import FFMPEG, FOXGLOVE
from test.factories import make_image

# As published by the two projects, comments left out.
DEFINITIONS = {
    FOXGLOVE: 'builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n',
    FFMPEG: 'std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\n'
    'uint8 flags\nbool is_bigendian\nuint8[] data\n',
}
TYPES = get_typestore(Stores.ROS2_KILTED)
for _name, _text in DEFINITIONS.items():
    TYPES.register(get_types_from_msg(_text, _name))

OPTIONS = {
    'libx264': {'preset': 'ultrafast', 'tune': 'zerolatency', 'crf': '15'},
    'libx265': {
        'preset': 'ultrafast',
        'tune': 'zerolatency',
        # one thread: what several make differs from run to run
        'x265-params': 'log-level=none:repeat-headers=1:crf=15:pools=none:frame-threads=1',
    },
    'libvpx-vp9': {'deadline': 'realtime', 'cpu-used': '8', 'lag-in-frames': '0', 'crf': '15'},
    'libsvtav1': {'preset': '10', 'crf': '15', 'svtav1-params': 'pred-struct=1'},
}


def moving_images(count: int, size_px: tuple[int, int] = (96, 64)) -> list[np.ndarray]:
    """Images (h, w, 3) RGB: a window that moves four pixels a time over a larger picture."""
    width, height = size_px
    wide = make_image((width + 4 * count, height), seed=1)
    return [np.ascontiguousarray(wide[:, 4 * i : 4 * i + width]) for i in range(count)]


def packets(
    images: list[np.ndarray],
    encoder: str = 'libx264',
    *,
    key_every: int = 10,
    b_frames: int = 0,
    **options: str,
) -> list[bytes]:
    """One packet per image. In a thread of its own: SVT-AV1 gives the thread that opens it, and so
    whatever that one starts, real-time priority where it may, and nothing else would run.
    """
    with ThreadPoolExecutor(1) as apart:
        own = {**OPTIONS[encoder], **options}
        return apart.submit(_packets, images, encoder, key_every, b_frames, own).result()


def _packets(
    images: list[np.ndarray], encoder: str, key_every: int, b_frames: int, options: dict[str, str]
) -> list[bytes]:
    import av

    codec = av.CodecContext.create(encoder, 'w')
    codec.height, codec.width = images[0].shape[:2]
    codec.pix_fmt, codec.time_base, codec.framerate = 'yuv420p', Fraction(1, 10), 10
    codec.gop_size, codec.max_b_frames, codec.thread_count = key_every, b_frames, 1
    if encoder == 'libvpx-vp9':
        codec.bit_rate = 4_000_000
    codec.options = options
    found = []
    for i, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, 'rgb24')
        frame.pts = i
        found += codec.encode(frame)
    found += codec.encode(None)
    return [bytes(packet) for packet in found]


def foxglove_video(data: bytes, stamp_ns: int, frame_id: str, codec: str = 'h264') -> bytes:
    """A serialised foxglove_msgs/CompressedVideo."""
    sec, nanosec = divmod(stamp_ns, 10**9)
    stamp = TYPES.types['builtin_interfaces/msg/Time'](sec=sec, nanosec=nanosec)
    message = TYPES.types[FOXGLOVE](
        timestamp=stamp, frame_id=frame_id, data=np.frombuffer(data, np.uint8), format=codec
    )
    return bytes(TYPES.serialize_cdr(message, FOXGLOVE))


def ffmpeg_packet(data: bytes, stamp_ns: int, frame_id: str, codec: str = 'libx264') -> bytes:
    """A serialised ffmpeg_image_transport_msgs/FFMPEGPacket."""
    sec, nanosec = divmod(stamp_ns, 10**9)
    stamp = TYPES.types['builtin_interfaces/msg/Time'](sec=sec, nanosec=nanosec)
    message = TYPES.types[FFMPEG](
        header=TYPES.types['std_msgs/msg/Header'](stamp=stamp, frame_id=frame_id),
        width=96,
        height=64,
        encoding=codec,
        pts=0,
        flags=0,
        is_bigendian=False,
        data=np.frombuffer(data, np.uint8),
    )
    return bytes(TYPES.serialize_cdr(message, FFMPEG))
