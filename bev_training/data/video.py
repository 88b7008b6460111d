"""Video topics: packets of H.264, H.265, VP9 or AV1 become images, through PyAV (an extra).

A packet holds one picture, told against the pictures before it, so every packet of a topic goes
through the decoder, whether its picture is wanted or not. Colours are only made for pictures that
are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from bev_perception.errors import ConfigError, MessageError
from bev_perception.images import byte_array, check_image
from bev_perception.messages import frame_id, stamp_ns
from bev_training.data.video_gaps import GapFinder

FOXGLOVE = 'foxglove_msgs/msg/CompressedVideo'
FFMPEG = 'ffmpeg_image_transport_msgs/msg/FFMPEGPacket'
VIDEO_TYPES = (FOXGLOVE, FFMPEG)

# Part of a codec's name -> FFmpeg's decoder. Messages name codecs ('h265', 'hevc') or the encoder
# that was used ('libx264', 'h264_nvenc', 'hevc_vaapi', 'libsvtav1').
_DECODERS = {'264': 'h264', '265': 'hevc', 'hevc': 'hevc', 'vp9': 'vp9', 'av1': 'libdav1d'}
_OPTIONS = {
    'err_detect': 'crccheck+explode',  # damage is an error, not a guess
    'max_pixels': str(1 << 26),  # a damaged header must not take all memory
}
_KEPT_STAMPS = 64  # of packets whose picture may still come; decoders hold back 16 at most


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """As `builtin_interfaces/Time`."""

    sec: int
    nanosec: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """As `std_msgs/Header`."""

    stamp: Stamp
    frame_id: str


@dataclass(frozen=True, eq=False, kw_only=True)
class VideoImage:
    """A picture of a video with the fields of `sensor_msgs/Image`, for `messages.read_image`.

    Attributes:
        header: stamp and optical frame.
        height: pixels.
        width: pixels.
        picture: the decoder's own (av.VideoFrame, mostly YUV 4:2:0).
        encoding: of `data`.
        is_bigendian: of `data`.
    """

    header: Header
    height: int
    width: int
    picture: Any
    encoding: str = 'rgb8'
    is_bigendian: int = 0

    @property
    def step(self) -> int:
        """Bytes of a row."""
        return 3 * self.width

    @cached_property
    def data(self) -> npt.NDArray[np.uint8]:
        """RGB, (3 * height * width,) uint8; made when it is first asked for.

        With the colour matrix and range that the stream names, BT.601 and video range where it
        names none.
        """
        from av.video.reformatter import Interpolation

        exact = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
        rgb = self.picture.to_ndarray(format='rgb24', interpolation=exact, threads=1)
        return np.asarray(rgb, np.uint8).reshape(-1)


def video_stamp_ns(message: Any) -> int:
    """Return a video message's stamp; foxglove's has one without a header."""
    if hasattr(message, 'header'):
        return stamp_ns(message.header)
    return int(message.timestamp.sec) * 10**9 + int(message.timestamp.nanosec)


def image_size(message: Any) -> tuple[int, int]:
    """Return (width, height) of an image, decoded from video or not decoded yet.

    Raises:
        MessageError: see `images.check_image`.
    """
    if isinstance(message, VideoImage):  # whose data would be made just to be looked at
        return message.width, message.height
    return check_image(message)


def sensor_frame_id(message: Any) -> str:
    """Return the frame that a sensor's message names, without a leading slash; foxglove's video
    names it without a header.
    """
    return frame_id(message.header if hasattr(message, 'header') else message)


class VideoDecoder:
    """Decodes one video topic.

    Same packets, same pixels: one thread. After damage or a lost picture nothing comes until the
    next key picture, as at the beginning: never a picture that was patched up. That holds as far
    as it shows: some damage to H.265 looks like a picture unless its encoder adds hashes, and VP9
    carries nothing that would tell.

    Attributes:
        counts: packets without a picture, 'video_waiting' (for a key picture) and 'video_damaged';
            and 'video_gaps', where an H.264 packet must have been lost before.
    """

    def __init__(self, camera: str) -> None:
        """Start before the first packet.

        Args:
            camera: name, for errors.

        Raises:
            ConfigError: PyAV is not installed.
        """
        self._av = _import_av(camera)
        self._camera = camera
        self._encoding: str | None = None
        self._name = ''  # of FFmpeg's decoder
        self._codec: Any = None  # av.CodecContext; None: the next packet makes one
        self._gaps: GapFinder | None = None
        self._started = False  # a picture came out of this codec
        self._number = 0
        self._inside: dict[int, tuple[int, str]] = {}  # packets by number: stamp, frame
        self.counts = {'video_waiting': 0, 'video_damaged': 0, 'video_gaps': 0}

    def push(self, message: Any, stamp_ns: int) -> list[tuple[int, VideoImage]]:
        """Decode one packet.

        Args:
            message: of one of `VIDEO_TYPES`.
            stamp_ns: exposure of its picture.

        Returns:
            Stamps and pictures that are ready, mostly the packet's own.

        Raises:
            MessageError: the codec is unknown.
        """
        encoding = str(message.format if hasattr(message, 'format') else message.encoding)
        finished = []
        if encoding != self._encoding:
            name = _decoder_name(encoding, self._camera)
            finished = self.flush()
            self._encoding, self._name = encoding, name
        data = byte_array(message.data).tobytes()
        if self._gaps is not None and self._gaps.push(data):
            self.counts['video_gaps'] += 1
            finished += self.flush()  # what came before the gap is whole
        if self._codec is None:
            self._start(data)
        self._inside[self._number] = (stamp_ns, sensor_frame_id(message))
        packet = self._av.Packet(data)
        packet.pts = self._number
        self._number += 1
        # Without data, a packet would be the end of the stream.
        return finished + (self._decode(packet) if data else self._stop())

    def flush(self) -> list[tuple[int, VideoImage]]:
        """Return the pictures that the decoder still holds; a new stream may follow."""
        if self._codec is None:
            return []
        return self._decode(None) + self._stop()

    def _start(self, data: bytes) -> None:
        try:
            self._codec = self._av.CodecContext.create(self._name, 'r')
        except self._av.codec.codec.UnknownCodecError:
            raise ConfigError(
                f'{self._camera}: this build of PyAV cannot decode {self._encoding!r}'
            ) from None
        self._codec.thread_count = 1
        self._codec.options = _OPTIONS
        self._started = False
        self._gaps = GapFinder() if self._name == 'h264' else None
        if self._gaps is not None:
            self._gaps.push(data)

    def _stop(self) -> list[tuple[int, VideoImage]]:
        """Give the codec up, and with it the packets inside."""
        self._count(len(self._inside))
        self._inside.clear()
        self._codec = self._gaps = None
        return []

    def _count(self, packets: int) -> None:
        self.counts['video_damaged' if self._started else 'video_waiting'] += packets

    def _decode(self, packet: Any) -> list[tuple[int, VideoImage]]:
        try:
            pictures = self._codec.decode(packet)
        except self._av.FFmpegError:
            return self._stop()
        images = []
        for picture in pictures:
            known = self._inside.get(picture.pts)
            if picture.is_corrupt or known is None:
                self._stop()
                break
            if not self._started:  # none of the packets before it can be decoded any more
                early = [number for number in self._inside if number < picture.pts]
                self._drop(early)
                self._started = True
            del self._inside[picture.pts]
            images.append((known[0], _image(picture, *known)))
        self._drop(list(self._inside)[:-_KEPT_STAMPS])
        return images

    def _drop(self, numbers: list[int]) -> None:
        self._count(len(numbers))
        for number in numbers:
            del self._inside[number]


def _image(picture: Any, stamp_ns: int, frame: str) -> VideoImage:
    sec, nanosec = divmod(stamp_ns, 10**9)
    return VideoImage(
        header=Header(stamp=Stamp(sec=sec, nanosec=nanosec), frame_id=frame),
        height=picture.height,
        width=picture.width,
        picture=picture,
    )


def _decoder_name(encoding: str, camera: str) -> str:
    """Return FFmpeg's decoder; newer packets name pixel formats behind a semicolon."""
    name = encoding.split(';')[0].strip().lower()
    found = next((decoder for part, decoder in _DECODERS.items() if part in name), None)
    if found is None:
        raise MessageError(
            f'{camera}: video of codec {encoding!r} is unknown; known are h264, h265, vp9, av1'
        )
    return found


def _import_av(camera: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            f'{camera}: video topics need the package av ({error}); pip install av'
        ) from None
    return av
