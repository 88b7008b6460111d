"""What is stored of an image: recorded bytes untouched, others without loss or as asked for."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace as Plain

import cv2
import numpy as np
import pytest

from bev_perception import images
from bev_perception.errors import BagError, ConfigError, MessageError
from bev_perception.messages import read_image
from bev_training.data import encode
from bev_training.data.encode import ImageEncoder
from test.factories import make_image
from test.messages.makers import MOSAICS, compressed, header, image, mosaic, noise
from test.messages.makers import encode as encoded

LAYOUTS = images._LAYOUTS


def run(encoder, message):
    return encoder.encode(message, camera='front', stamp_ns=5)


def stored(result):
    """The stored image as a reader will get it."""
    message = Plain(header=header(), format=result.format, data=result.data)
    return images.decode_compressed(message)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


@pytest.fixture
def hook(tmp_path):
    """Write a privacy function's body; returns the name."""

    def write(body):
        path = tmp_path / 'hook.py'
        path.write_text(f'import numpy as np\ndef f(image, camera, stamp_ns):\n    {body}\n')
        return f'{path}:f'

    return write


@pytest.mark.parametrize('quality', [None, 50])
@pytest.mark.parametrize('data_type', [bytes, memoryview, lambda b: np.frombuffer(b, np.uint8)])
@pytest.mark.parametrize(
    ('ext', 'fmt', 'suffix'),
    [
        ('.jpg', 'rgb8; jpeg compressed bgr8', 'jpg'),
        ('.jpg', 'png', 'jpg'),  # the data tells, not the format
        ('.png', 'bgr8; png compressed bgr8', 'png'),
        ('.png', '', 'png'),
    ],
)
def test_compressed_images_keep_every_byte(ext, fmt, suffix, data_type, quality):
    data = encoded(make_image((61, 45)), ext) + b'padding'
    message = compressed(b'', fmt)
    message.data = data_type(data)
    result = run(ImageEncoder(jpeg_quality=quality), message)
    assert result.data == data
    assert (result.suffix, result.size_px, result.format) == (suffix, (61, 45), fmt)


@pytest.mark.parametrize('pattern', MOSAICS)
def test_a_compressed_mosaic_still_gets_its_colours(pattern):
    raw = mosaic(make_image((24, 16)), pattern)[..., 0]
    message = compressed(encoded(raw, '.png'), f'{pattern}8; png compressed ')
    result = run(ImageEncoder(jpeg_quality=None), message)
    np.testing.assert_array_equal(stored(result), read_image(message))
    assert np.ptp(stored(result).astype(int), axis=-1).max() > 20


@pytest.mark.parametrize('big', [0, 1])
@pytest.mark.parametrize('encoding', LAYOUTS)
def test_raw_images_come_back_bit_for_bit(encoding, big):
    layout = LAYOUTS[encoding]
    pixels = noise((10, 14, layout.channels * layout.sample_bytes))
    message = image(pixels, encoding, step=14 * pixels.shape[2] + 9, big=big)
    result = run(ImageEncoder(jpeg_quality=None), message)
    assert (result.suffix, result.size_px, result.format) == ('png', (14, 10), 'png')
    np.testing.assert_array_equal(stored(result), read_image(message))


@pytest.fixture(params=['simplejpeg', 'opencv'])
def jpeg_encoder(request, monkeypatch):
    if request.param == 'opencv':
        monkeypatch.setattr(encode, '_simplejpeg', None)
    else:
        pytest.importorskip('simplejpeg')


def test_raw_images_as_jpeg(jpeg_encoder):
    rgb = make_image((96, 64))
    results = {q: run(ImageEncoder(jpeg_quality=q), image(rgb, 'rgb8')) for q in (30, 90, 95, 100)}
    assert {(r.suffix, r.size_px, r.format) for r in results.values()} == {
        ('jpg', (96, 64), 'jpeg')
    }
    sizes = [len(r.data) for r in results.values()]
    quality = [psnr(stored(r), rgb) for r in results.values()]
    assert sizes == sorted(sizes) and quality == sorted(quality)
    assert quality[0] > 20 and quality[2] > 34 and quality[3] > 38


def test_colour_keeps_its_resolution_from_quality_95_on(jpeg_encoder):
    lamps = np.zeros((32, 32, 3), np.uint8)
    lamps[:, ::2] = (255, 0, 0)  # columns of one pixel
    full, half = (
        stored(run(ImageEncoder(jpeg_quality=q), image(lamps, 'rgb8'))) for q in (95, 94)
    )
    assert full[:, ::2, 0].min() - full[:, 1::2, 0].max().astype(int) > 200
    assert full[:, ::2, 1:].max() < 10 and half[:, ::2, 1:].max() > 30  # the red has run


def test_encoding_is_repeatable():
    message = image(noise((64, 96, 3)), 'bgr8')
    for quality in (None, 90):
        first, second = (run(ImageEncoder(jpeg_quality=quality), message) for _ in range(2))
        assert first.data == second.data


@pytest.mark.parametrize(
    'message',
    [
        compressed(encoded(make_image())[:-4]),
        compressed(encoded(make_image(), '.png')[:-4]),
        compressed(encoded(make_image()), '16UC1; compressedDepth png'),
        compressed(b'RIFF0000WEBP', 'webp'),
        image(noise((4, 4, 2)), '16UC1'),
        Plain(**{**vars(image(noise((4, 4, 3)), 'rgb8')), 'height': 5}),
    ],
)
@pytest.mark.parametrize('privacy', [False, True])
def test_what_is_no_image_is_refused(message, privacy, hook):
    name = hook('return image') if privacy else ''
    with pytest.raises(MessageError, match='cam: '):
        run(ImageEncoder(jpeg_quality=None, privacy=name), message)


@pytest.mark.parametrize(
    ('kind', 'quality', 'suffix'),
    [
        ('raw', None, 'png'),
        ('raw', 80, 'jpg'),
        ('.jpg', None, 'jpg'),
        ('.jpg', 80, 'jpg'),
        ('.png', None, 'png'),
        ('.png', 80, 'jpg'),
    ],
)
def test_with_a_privacy_function_no_original_byte_is_kept(kind, quality, suffix, hook):
    rgb = make_image((96, 64))
    fmt = 'bayer_rggb8; jpeg compressed bgr8'
    message = image(rgb, 'rgb8') if kind == 'raw' else compressed(encoded(rgb, kind), fmt)
    name = hook('image[:32] = 0; return image')
    result = run(ImageEncoder(jpeg_quality=quality, privacy=name), message)
    assert result.suffix == suffix and result.size_px == (96, 64)
    assert result.format == {'jpg': 'jpeg', 'png': 'png'}[suffix]
    assert kind == 'raw' or result.data != message.data
    got, source = stored(result), read_image(message)
    assert got[:30].max() < 20 and psnr(got[34:], source[34:]) > 28
    if suffix == 'png':
        np.testing.assert_array_equal(got[32:], source[32:])
    if kind == '.jpg' and quality is None:
        expected = encode.encode_jpeg(np.concatenate([0 * source[:32], source[32:]]), 95)
        assert result.data == expected.data


def test_the_privacy_function_learns_camera_and_stamp(hook):
    name = hook("image[:] = 9 if (camera, stamp_ns) == ('front', 5) else 200; return image")
    result = run(ImageEncoder(jpeg_quality=None, privacy=name), image(noise((8, 8, 3)), 'rgb8'))
    assert (stored(result) == 9).all()


@pytest.mark.parametrize('body', ['return image[:, ::-1]', 'return image.transpose(0, 1, 2)'])
def test_views_of_the_image_are_fine(body, hook):
    rgb = noise((8, 9, 3))
    encoder = ImageEncoder(jpeg_quality=None, privacy=hook(body))
    expected = rgb[:, ::-1] if '-1' in body else rgb
    np.testing.assert_array_equal(stored(run(encoder, image(rgb, 'rgb8'))), expected)


@pytest.mark.parametrize(
    ('body', 'words'),
    [
        ('image[:] = 0', 'it returned NoneType, not an image'),
        ('return image[:4]', r'it returned uint8 \(4, 9, 3\); it must be uint8 \(8, 9, 3\)'),
        ('return image[..., 0]', r'it returned uint8 \(8, 9\)'),
        ('return image / 255.0', r'it returned float64'),
    ],
)
def test_a_privacy_function_that_returns_no_such_image(body, words, hook):
    encoder = ImageEncoder(jpeg_quality=None, privacy=hook(body))
    with pytest.raises(ConfigError, match=f"hook.py:f', camera front, stamp 5: {words}"):
        run(encoder, image(noise((8, 9, 3)), 'rgb8'))


def test_a_privacy_function_that_fails_stops_the_conversion(hook):
    """A BagError, not the MessageError that a damaged image gives and that is only counted."""
    encoder = ImageEncoder(jpeg_quality=None, privacy=hook("raise ValueError('no\\n  weights')"))
    with pytest.raises(BagError, match=r"hook.py:f', camera front, stamp 5: ValueError: no weigh"):
        run(encoder, compressed(encoded(make_image())))


def test_a_privacy_function_that_cannot_be_loaded():
    with pytest.raises(ConfigError, match=r"privacy 'nowhere:f'"):
        ImageEncoder(jpeg_quality=None, privacy='nowhere:f')


def test_what_the_manifest_says(hook):
    assert ImageEncoder(jpeg_quality=None).described == {
        'raw_images': 'png',
        'compressed_images': 'as recorded',
        'privacy': '',
        'privacy_sha256': '',
    }
    assert ImageEncoder(jpeg_quality=90).described['raw_images'] == 'jpeg 90'
    name = hook('return image')
    with open(name.rpartition(':')[0], 'rb') as file:
        sha256 = hashlib.sha256(file.read()).hexdigest()
    assert ImageEncoder(jpeg_quality=None, privacy=name).described == {
        'raw_images': 'png after privacy',
        'compressed_images': 'jpeg 95 or png, as recorded, after privacy',
        'privacy': name,
        'privacy_sha256': sha256,
    }
    described = ImageEncoder(jpeg_quality=80, privacy=name).described
    assert described['compressed_images'] == 'jpeg 80 after privacy'


def test_threads_share_an_encoder_but_not_the_privacy_function(hook):
    """The function runs once at a time; results are those of one thread."""
    name = hook(
        'f.inside = getattr(f, "inside", 0) + 1; f.most = max(getattr(f, "most", 0), f.inside); '
        'import time; time.sleep(0.002); f.inside -= 1; image[:2] = 0; return image'
    )
    encoder = ImageEncoder(jpeg_quality=None, privacy=name)
    messages = [image(noise((32, 48, 3), seed=i), 'rgb8') for i in range(24)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda message: run(encoder, message), messages))
    assert encoder._function.most == 1
    for result, message in zip(results, messages, strict=True):
        np.testing.assert_array_equal(stored(result)[2:], read_image(message)[2:])


def test_png_options_are_lossless_for_flat_and_noisy_images():
    for rgb in (np.zeros((7, 5, 3), np.uint8), noise((7, 5, 3)), make_image((64, 48))):
        data = encode.encode_png(rgb).data
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(bgr[..., ::-1], rgb)
