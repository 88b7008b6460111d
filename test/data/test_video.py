"""Videos: stamps, pictures, and that loss and damage never pass for a picture."""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from types import SimpleNamespace as Plain

import numpy as np
import pytest

from bev_perception import images
from bev_perception.errors import ConfigError, MessageError
from bev_perception.messages import read_image
from bev_training.data.video import FFMPEG, FOXGLOVE, VideoDecoder, sensor_frame_id, video_stamp_ns
from bev_training.data.video_gaps import GapFinder
from test.factories import STAMP_NS

av = pytest.importorskip('av')

from test.data import small_video  # noqa: E402

COUNT = 24
CODECS = {'libx264': 'h264', 'libx265': 'h265', 'libvpx-vp9': 'vp9', 'libsvtav1': 'av1'}


def has(encoder):
    try:
        av.codec.Codec(encoder, 'w')
    except ValueError:
        return False
    return True


@pytest.fixture(scope='module')
def originals():
    return small_video.moving_images(COUNT)


@pytest.fixture(scope='module', params=CODECS)
def stream(request, originals):
    """(codec's name in messages, packets); key pictures are 0, 10 and 20."""
    if not has(request.param):
        pytest.skip(f'this build of PyAV has no encoder {request.param}')
    return CODECS[request.param], small_video.packets(originals, request.param)


@pytest.fixture(scope='module')
def h264(originals):
    if not has('libx264'):
        pytest.skip('this build of PyAV has no encoder libx264')
    return small_video.packets(originals)


def message(data, codec='h264'):
    stamp = Plain(sec=1, nanosec=0)
    return Plain(timestamp=stamp, frame_id='/front_optical', data=data, format=codec)


def decode(packets, codec='h264'):
    """Numbers and pictures, and what was counted; a packet None was lost."""
    decoder = VideoDecoder('front')
    found = []
    for i, data in enumerate(packets):
        if data is not None:
            found += decoder.push(message(data, codec), STAMP_NS + i)
    found += decoder.flush()
    numbers = [stamp_ns - STAMP_NS for stamp_ns, _ in found]
    pushed = sum(data is not None for data in packets)
    counts = decoder.counts
    assert len(found) + counts['video_waiting'] + counts['video_damaged'] == pushed
    return numbers, [image for _, image in found], counts


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def assert_like(numbers, found, originals):
    for number, image in zip(numbers, found, strict=True):
        assert psnr(read_image(image), originals[number]) > 30


def test_encoders_leave_the_scheduling_of_the_tests_alone(originals):
    before = os.sched_getscheduler(0)
    for encoder in filter(has, CODECS):
        small_video.packets(originals[:2], encoder)
        assert os.sched_getscheduler(0) == before, encoder


def test_every_packet_becomes_its_picture(stream, originals):
    codec, packets = stream
    numbers, found, counts = decode(packets, codec)
    assert len(packets) == COUNT and numbers == list(range(COUNT)) and not any(counts.values())
    assert_like(numbers, found, originals)


def test_a_picture_has_the_fields_of_an_image(h264):
    _, found, _ = decode(h264)
    image = found[3]
    sec, nanosec = divmod(STAMP_NS + 3, 10**9)
    assert (image.header.stamp.sec, image.header.stamp.nanosec) == (sec, nanosec)
    assert image.header.frame_id == 'front_optical'
    assert (image.width, image.height, image.step, image.encoding) == (96, 64, 288, 'rgb8')
    assert images.check_image(image) == (96, 64)
    assert 'data' in vars(image) and 'data' not in vars(found[4])  # made when asked for


def test_same_packets_same_pixels(stream):
    codec, packets = stream
    first, second = (decode(packets, codec)[1] for _ in range(2))
    assert all((a.data == b.data).all() for a, b in zip(first, second, strict=True))


def test_before_the_first_key_picture_nothing_comes(stream, originals):
    codec, packets = stream
    numbers, found, counts = decode([None] * 3 + packets[3:], codec)
    assert numbers == list(range(10, COUNT))
    assert counts == {'video_waiting': 7, 'video_damaged': 0, 'video_gaps': 0}
    assert_like(numbers, found, originals)


@pytest.mark.parametrize('codec', ['h264', 'h265'])
def test_a_lost_packet_ends_the_stream_until_the_next_key_picture(codec, originals):
    encoder = {'h264': 'libx264', 'h265': 'libx265'}[codec]
    if not has(encoder):
        pytest.skip(f'this build of PyAV has no encoder {encoder}')
    packets = small_video.packets(originals, encoder)
    numbers, found, counts = decode(packets[:4] + [None] + packets[5:], codec)
    assert numbers == [*range(4), *range(10, COUNT)]
    assert counts['video_waiting'] + counts['video_damaged'] == 5
    assert counts['video_gaps'] == (codec == 'h264')
    assert_like(numbers, found, originals)


@pytest.mark.parametrize('broken', [4, 10])
def test_a_cut_packet_ends_the_stream_until_the_next_key_picture(broken):
    """Of H.264; in H.265 a cut may look like the end of a picture."""
    encoder = 'libx264'
    if not has(encoder):
        pytest.skip(f'this build of PyAV has no encoder {encoder}')
    originals = small_video.moving_images(COUNT, (320, 240))
    packets = small_video.packets(originals, encoder)
    packets[broken] = packets[broken][: len(packets[broken]) // 2]
    numbers, found, counts = decode(packets, CODECS[encoder])
    key = (broken // 10 + 1) * 10
    assert numbers == [*range(broken), *range(key, COUNT)]
    assert counts['video_damaged'] == 1 and counts['video_waiting'] == key - broken - 1
    assert_like(numbers, found, originals)


def test_h265_hashes_are_checked(originals):
    """Where an encoder adds hashes, no damage passes; without them H.265 may not notice."""
    if not has('libx265'):
        pytest.skip('this build of PyAV has no encoder libx265')
    options = {'x265-params': 'log-level=none:repeat-headers=1:hash=1'}
    packets = small_video.packets(originals, 'libx265', **options)
    assert decode(packets, 'h265')[0] == list(range(COUNT))
    broken = bytearray(packets[10])
    broken[-40] ^= 0x10
    numbers, _, counts = decode([*packets[:10], bytes(broken), *packets[11:]], 'h265')
    assert numbers == [*range(10), *range(20, COUNT)] and counts['video_damaged'] == 1


def test_an_empty_packet_is_damage_and_not_the_end(stream):
    codec, packets = stream
    packets = [*packets[:4], b'', *packets[5:]]
    numbers, _, counts = decode(packets, codec)
    assert numbers == [*range(4), *range(10, COUNT)] and counts['video_damaged'] == 1


def test_garbage_is_counted(stream):
    codec, _ = stream
    rng = np.random.default_rng(0)
    numbers, _, counts = decode([rng.bytes(500) for _ in range(5)], codec)
    assert numbers == [] and counts['video_waiting'] == 5


def test_flipped_bits_never_raise(stream):
    codec, packets = stream
    rng = np.random.default_rng(1)
    for _ in range(30):
        broken = [bytearray(data) for data in packets]
        for _ in range(3):
            data = broken[rng.integers(len(broken))]
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        decode([bytes(data) for data in broken], codec)  # checks that every packet is counted


def test_parameters_in_every_packet_make_no_key_picture(h264, originals):
    """Some drivers repeat them; the pictures before a key picture still lack their base."""
    starts = [at for at in range(len(h264[0])) if h264[0][at : at + 3] == b'\0\0\1']
    units = [h264[0][a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    head = b'\0' + b''.join(unit for unit in units if unit[3] & 31 in (7, 8))
    numbers, found, counts = decode([None] * 3 + [head + data for data in h264[3:]])
    assert numbers == list(range(10, COUNT)) and counts['video_waiting'] == 7
    assert_like(numbers, found, originals)


def test_pictures_that_come_late_keep_their_stamps(originals):
    """B pictures: packets come in the order of decoding, each with its own picture's stamp."""
    if not has('libx264'):
        pytest.skip('this build of PyAV has no encoder libx264')
    packets = small_video.packets(originals, b_frames=2, preset='medium', tune='psnr')
    shown = display_order(packets)
    assert shown != sorted(shown)
    decoder = VideoDecoder('front')
    found = []
    for data, number in zip(packets, shown, strict=True):
        found += decoder.push(message(data), STAMP_NS + number)
    found += decoder.flush()
    numbers = [stamp_ns - STAMP_NS for stamp_ns, _ in found]
    assert numbers == list(range(COUNT)) and not any(decoder.counts.values())
    assert_like(numbers, [image for _, image in found], originals)


def display_order(packets):
    """Number of the picture in each packet."""
    codec = av.CodecContext.create('h264', 'r')
    found = []
    for i, data in enumerate([*packets, None]):
        packet = av.Packet(data) if data else None
        if packet:
            packet.pts = i
        found += [frame.pts for frame in codec.decode(packet)]
    return [found.index(i) for i in range(len(packets))]


def test_another_size_in_the_middle(h264):
    larger = small_video.packets(small_video.moving_images(5, (128, 96)))
    numbers, found, counts = decode(h264[:10] + larger)
    assert numbers == list(range(15)) and not any(counts.values())
    assert [image.width for image in found] == [96] * 10 + [128] * 5


def test_another_codec_in_the_middle(h264, originals):
    if not has('libx265'):
        pytest.skip('this build of PyAV has no encoder libx265')
    decoder = VideoDecoder('front')
    found = [pair for data in h264[:5] for pair in decoder.push(message(data), 0)]
    later = small_video.packets(originals[:5], 'libx265')
    found += [pair for data in later for pair in decoder.push(message(data, 'h265'), 1)]
    found += decoder.flush()
    assert [stamp_ns for stamp_ns, _ in found] == [0] * 5 + [1] * 5
    with pytest.raises(MessageError, match=r"front: video of codec 'theora' is unknown"):
        decoder.push(message(b'x', 'theora'), 2)


@pytest.mark.parametrize(
    'codec', ['h264', 'libx264', 'h264_nvenc', 'H264', 'h264;yuv420p;bgr8;bgr8', 'h264_vaapi']
)
def test_names_of_a_codec(codec, h264):
    assert len(VideoDecoder('front').push(message(h264[0], codec), 0)) == 1


@pytest.mark.parametrize('kind', [FOXGLOVE, FFMPEG])
def test_messages_of_a_recording(kind, h264, originals):
    write = small_video.foxglove_video if kind == FOXGLOVE else small_video.ffmpeg_packet
    decoder = VideoDecoder('front')
    for i, data in enumerate(h264):
        cdr = write(data, STAMP_NS + i, '/front_optical')
        received = small_video.TYPES.deserialize_cdr(cdr, kind)
        assert video_stamp_ns(received) == STAMP_NS + i
        assert sensor_frame_id(received) == 'front_optical'
        ((stamp_ns, image),) = decoder.push(received, video_stamp_ns(received))
        assert stamp_ns == STAMP_NS + i and image.header.frame_id == 'front_optical'
        assert psnr(read_image(image), originals[i]) > 30


@pytest.mark.parametrize(
    ('range_', 'matrix', 'options'),
    [
        ('MPEG', 'ITU601', 'colorprim=smpte170m:colormatrix=smpte170m:fullrange=off'),
        ('MPEG', 'ITU709', 'colorprim=bt709:colormatrix=bt709:fullrange=off'),
        ('JPEG', 'ITU601', 'colorprim=smpte170m:colormatrix=smpte170m:fullrange=on'),
    ],
)
def test_colours_follow_what_the_stream_says(range_, matrix, options):
    if not has('libx264'):
        pytest.skip('this build of PyAV has no encoder libx264')
    from av.video.reformatter import ColorRange, Colorspace

    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :32], image[:, 32:64], image[:, 64:] = (200, 30, 40), (30, 200, 40), (250, 250, 250)
    frame = av.VideoFrame.from_ndarray(image, 'rgb24').reformat(
        format='yuv420p', dst_colorspace=Colorspace[matrix], dst_color_range=ColorRange[range_]
    )
    codec = av.CodecContext.create('libx264', 'w')
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 96, 64, 'yuv420p', Fraction(1, 10)
    codec.options = {'preset': 'ultrafast', 'crf': '5', 'x264-params': options}
    data = b''.join(bytes(p) for p in [*codec.encode(frame), *codec.encode(None)])
    _, (found,), _ = decode([data])
    got = read_image(found).astype(int)
    for at in (16, 48, 80):
        assert np.abs(got[32, at] - image[32, at]).max() < 8


def test_without_the_package_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(ConfigError, match=r'front: video topics need .* pip install av'):
        VideoDecoder('front')


def test_gap_finder_over_many_key_pictures(h264):
    """frame_num wraps at 16 pictures and starts anew at key pictures; no false alarm."""
    many = small_video.packets(small_video.moving_images(70), key_every=60)
    finder = GapFinder()
    assert not any(finder.push(data) for data in h264 + many)
    for lost in range(1, len(many)):
        finder = GapFinder()
        seen = [finder.push(data) for i, data in enumerate(many) if i != lost]
        # Nothing refers to the picture before a key picture, or to the last.
        assert sum(seen) == (lost not in (59, 69))
