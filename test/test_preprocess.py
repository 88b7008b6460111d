"""Images and intrinsics move together: dots drawn at known 3-D points are found where the prepared
camera puts them, whatever happened to the image before.
"""

from __future__ import annotations

from types import SimpleNamespace as Plain

import cv2
import numpy as np
import pytest
import torch

from bev_perception.errors import SyncError
from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_perception.messages import read_image
from bev_perception.model.config import ModelConfig
from bev_perception.preprocess import decode_size_px, prepare, to_pinhole
from bev_perception.views import ViewSet, fit_camera

from .factories import STAMP_NS, look, make_camera, make_config, make_image, make_view

SIZE_PX = (400, 224)
LENSES = {
    'pinhole': {},
    'plumb_bob': {'model': 'plumb_bob', 'D': (-0.25, 0.06, 0.001, -0.002, 0.0)},
    'rational_polynomial': {
        'model': 'rational_polynomial',
        'D': (0.9, 0.2, 0.0005, -0.001, 0.01, 1.1, 0.3, 0.02),
    },
    'equidistant': {'model': 'equidistant', 'D': (0.03, -0.01, 0.004, -0.001)},
}
# Points of the camera frame, in all parts of the image that survive the crop.
POINTS_CAM = np.array(
    [[0, 0.6, 10], [-4, 0.3, 10], [4.2, 1.2, 10], [-3, 1.8, 8], [2.5, 1.5, 6], [0.5, 0.1, 3.0]]
)


def draw_dots(uv, size_px, sigma_px):
    """White on black: Gaussian blobs whose centres lie between pixels."""
    v, u = np.mgrid[0 : size_px[1], 0 : size_px[0]]
    image = np.zeros(size_px[::-1])
    for at in uv:
        image += np.exp(-((u - at[0]) ** 2 + (v - at[1]) ** 2) / (2 * sigma_px**2))
    return np.repeat((255 * image.clip(0, 1)).round().astype(np.uint8)[..., None], 3, -1)


def centroid(image, near_uv, radius_px=8):
    """Centre of the light near a pixel."""
    gray = image[..., 0].astype(float)
    v, u = np.mgrid[0 : gray.shape[0], 0 : gray.shape[1]]
    weight = gray * (np.hypot(u - near_uv[0], v - near_uv[1]) <= radius_px)
    assert weight.sum() > 200, 'the dot is not there'
    return np.array([(weight * u).sum(), (weight * v).sum()]) / weight.sum()


def assert_dots_are_where_projected(view, points_ego, atol_px=0.6, size_px=SIZE_PX):
    image, camera, ego_T_cam = to_pinhole(view, size_px)
    assert image.shape == (size_px[1], size_px[0], 3) and camera.size_px == size_px
    assert camera.is_pinhole and (camera.rect_T_cam == np.eye(4)).all()
    uv, seen = camera.project(rigid.transform_points(rigid.inverse(ego_T_cam), points_ego))
    found = 0
    for at in uv[seen]:
        if min(*at, *(np.array(size_px) - at)) < 8:
            continue  # cut by the border
        assert np.abs(centroid(image, at) - at).max() < atol_px
        found += 1
    assert found >= 3
    return found


@pytest.mark.parametrize('lens', LENSES)
@pytest.mark.parametrize(
    'size_px',
    [(1600, 900), (1280, 960), (1920, 720), (640, 480), (400, 224), (401, 225), (320, 180)],
)
def test_intrinsics_follow_the_pixels(size_px, lens):
    """Shrunk, enlarged, cropped from the top or the sides, undistorted."""
    camera = make_camera(size_px, fov_deg=80.0, **LENSES[lens])
    uv, seen = camera.project(POINTS_CAM)
    sigma_px = 1.5 * max(1, size_px[0] / 400)
    pose = look(30, 3)
    view = make_view(camera, draw_dots(uv[seen], size_px, sigma_px), ego_T_cam=pose)
    assert_dots_are_where_projected(view, rigid.transform_points(pose, POINTS_CAM))


@pytest.mark.parametrize('lens', LENSES)
def test_decoded_at_half_size(lens):
    """A JPEG of 1600x900 is decoded at 800x450; the camera of 1600x900 is fitted to it."""
    camera = make_camera((1600, 900), fov_deg=80.0, **LENSES[lens])
    uv, seen = camera.project(POINTS_CAM)
    image = read_image(jpeg(draw_dots(uv[seen], (1600, 900), 6)), decode_size_px(ModelConfig()))
    assert image.shape == (450, 800, 3)
    view = make_view(fit_camera(camera, image, 'front'), image)
    assert_dots_are_where_projected(view, rigid.transform_points(look(), POINTS_CAM))


def test_rectified_camera():
    """A stereo pair's right image: its rotation and baseline move into the pose.

    The image shows the points in the rectified frame: R p + t, with P's t = (-0.3, 0, 0).
    """
    rect_T_cam = np.eye(4)
    rect_T_cam[:3, :3] = cv2.Rodrigues(np.array([0.03, -0.05, 0.02]))[0]
    rect_T_cam[:3, 3] = (-0.3, 0, 0)
    camera = make_camera((1280, 720), fov_deg=80.0, rect_T_cam=rect_T_cam)
    points = rigid.transform_points(rect_T_cam, POINTS_CAM)
    uv = points[:, :2] / points[:, 2:] * camera.K[0, 0] + camera.K[:2, 2]  # by hand
    np.testing.assert_allclose(camera.project(POINTS_CAM)[0], uv)
    view = make_view(camera, draw_dots(uv, (1280, 720), 5), ego_T_cam=look(-20))
    assert_dots_are_where_projected(view, rigid.transform_points(look(-20), POINTS_CAM))
    _, _, ego_T_cam = to_pinhole(view, SIZE_PX)
    np.testing.assert_allclose(ego_T_cam @ rect_T_cam, view.ego_T_cam, atol=1e-12)


def test_lens_and_rectification_together():
    """Both at once: the lens maps know nothing of the pose that rect_T_cam goes into."""
    rect_T_cam = np.eye(4)
    rect_T_cam[:3, :3] = cv2.Rodrigues(np.array([0.0, 0.1, 0.05]))[0]
    rect_T_cam[:3, 3] = (-0.5, 0.1, 0)
    camera = make_camera((800, 448), rect_T_cam=rect_T_cam, **LENSES['plumb_bob'])
    uv, seen = camera.project(POINTS_CAM)
    view = make_view(camera, draw_dots(uv[seen], (800, 448), 3))
    assert_dots_are_where_projected(view, rigid.transform_points(look(), POINTS_CAM))


def test_crop_is_from_the_top_and_even_from_the_sides():
    """1280x960 covers 400x224 at 400x300: 76 rows go, all at the top. 1920x720 at 597x224: 197
    columns go, 98 of them left.
    """
    tall = make_camera((1280, 960))
    _, camera, _ = to_pinhole(make_view(tall), SIZE_PX)
    s = 400 / 1280
    assert camera.K[0, 2] == pytest.approx((639.5 + 0.5) * s - 0.5)
    assert camera.K[1, 2] == pytest.approx((479.5 + 0.5) * s - 0.5 - 76)
    wide = make_camera((1920, 720))
    _, camera, _ = to_pinhole(make_view(wide), SIZE_PX)
    assert camera.K[1, 2] == pytest.approx(111.5)
    assert camera.K[0, 2] == pytest.approx((959.5 + 0.5) * 597 / 1920 - 0.5 - 98)
    rows = np.tile((np.arange(300) % 256).astype(np.uint8)[:, None, None], (1, 400, 3))
    image, _, _ = to_pinhole(make_view(make_camera((400, 300)), rows), SIZE_PX)
    np.testing.assert_array_equal(image, rows[76:])


def test_the_right_size_is_left_alone():
    image = make_image(SIZE_PX)
    got, camera, pose = to_pinhole(make_view(make_camera(SIZE_PX), image), SIZE_PX)
    np.testing.assert_array_equal(got, image)
    assert camera == make_camera(SIZE_PX)
    np.testing.assert_array_equal(pose, look())


@pytest.mark.parametrize('lens', ['plumb_bob', 'rational_polynomial', 'equidistant'])
def test_straight_lines_become_straight(lens):
    """A line in space, bent in the distorted image by more than 3 px, is straight afterwards."""
    camera = make_camera((800, 448), fov_deg=95.0, **LENSES[lens])
    t = np.linspace(0, 1, 4000)[:, None]
    points = np.array([-3.5, 1.1, 4.0]) * (1 - t) + np.array([3.5, 1.4, 4.0]) * t
    uv, seen = camera.project(points)
    assert seen.all() and bend(uv) > 3
    canvas = np.zeros((448, 800, 3), np.uint8)
    fixed = (uv * 16).round().astype(np.int32)
    cv2.polylines(canvas, [fixed], False, (255, 255, 255), 3, cv2.LINE_AA, shift=4)
    image, _, _ = to_pinhole(make_view(camera, canvas), SIZE_PX)
    columns = np.flatnonzero(image[..., 0].max(0) > 100)[5:-5]
    light = image[:, columns, 0].astype(float)
    rows = (light * np.arange(SIZE_PX[1])[:, None]).sum(0) / light.sum(0)
    assert len(columns) > 250
    assert bend(np.stack([columns, rows], -1)) < 0.5


def bend(uv):
    """Largest distance of points from the line through the first and the last."""
    along = (uv[-1] - uv[0]) / np.linalg.norm(uv[-1] - uv[0])
    offset = uv - uv[0]
    return np.abs(offset[:, 0] * along[1] - offset[:, 1] * along[0]).max()


def test_outside_the_lens_is_black():
    """A barrel lens bends its rim inwards; the pinhole's corners lie beyond it."""
    camera = make_camera((800, 448), fov_deg=70, model='equidistant', D=(0.5, 0.0, 0.0, 0.0))
    white = np.full((448, 800, 3), 255, np.uint8)
    image, _, _ = to_pinhole(make_view(camera, white), SIZE_PX)
    assert (image[0, 0] == 0).all() and (image[112, 200] == 255).all()


def test_shrinking_is_antialiased():
    """A checkerboard of single pixels becomes grey, not a pattern."""
    v, u = np.mgrid[0:900, 0:1600]
    board = np.repeat(((u + v) % 2 * 255).astype(np.uint8)[..., None], 3, -1)
    for size_px in ((1600, 900), (1500, 844)):
        camera = make_camera(size_px)
        image, _, _ = to_pinhole(make_view(camera, board[: size_px[1], : size_px[0]]), SIZE_PX)
        assert np.abs(image.astype(float) - 127.5).max() < 20
    image, _, _ = to_pinhole(make_view(make_camera((1600, 896)), board[:896]), SIZE_PX)
    assert np.abs(image.astype(float) - 127.5).max() <= 0.5  # exactly 4 x 4


def test_values_are_normalised():
    """(x / 255 - mean) / std per channel, RGB first."""
    config = make_config(mean=(0.5, 0.25, 0.1), std=(0.5, 0.25, 0.2))
    image = np.zeros((32, 64, 3), np.uint8)
    image[4, 7] = (255, 51, 102)  # 1, 0.2, 0.4
    got = prepare(ViewSet(stamp_ns=1, views=(make_view(image=image),)), config)
    assert got.images.shape == (1, 1, 3, 32, 64) and got.images.dtype == torch.float32
    assert got.images[0, 0, :, 4, 7].tolist() == pytest.approx([1, -0.2, 1.5], abs=1e-6)
    assert got.images[0, 0, :, 0, 0].tolist() == pytest.approx([-1, -1, -0.5], abs=1e-6)


def test_prepare_stacks_the_views():
    rig = [make_view(make_camera((128, 64)), ego_T_cam=look(yaw), name=str(yaw)) for yaw in (0, 9)]
    got = prepare(ViewSet(stamp_ns=1, views=tuple(rig), missing=('back',)), make_config())
    assert got.live.tolist() == [[True, True]]
    assert got.K.dtype == got.ego_T_cam.dtype == torch.float32
    for i, view in enumerate(rig):
        image, camera, pose = to_pinhole(view, (64, 32))
        np.testing.assert_allclose(got.K[0, i], camera.K, rtol=1e-6)
        np.testing.assert_allclose(got.ego_T_cam[0, i], pose, atol=1e-6)
        pixels = (got.images[0, i].permute(1, 2, 0) * 0.5 + 0.5) * 255
        np.testing.assert_allclose(pixels, image, atol=1e-3)


def test_a_set_without_images():
    with pytest.raises(SyncError, match=f'{STAMP_NS} ns holds no image'):
        prepare(ViewSet(stamp_ns=STAMP_NS, views=(), missing=('front',)), make_config())


def test_the_source_is_not_written_to():
    for size_px in (SIZE_PX, (800, 448)):
        view = make_view(make_camera(size_px))
        before = view.image.copy()
        image, _, _ = to_pinhole(view, SIZE_PX)
        image = np.array(image)
        image[:] = 0
        np.testing.assert_array_equal(view.image, before)


# --- JPEGs decoded at a fraction of their size ---------------------------------------------------


def jpeg(image, quality=92):
    """A CompressedImage."""
    data = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return Plain(header=Plain(frame_id='front'), format='jpeg', data=data)


def compare_decoders(message, size_px):
    """(mean, max) difference of the prepared image, in 8-bit steps, to a full decode."""
    config = ModelConfig(image_size_px=size_px)
    full, small = read_image(message), read_image(message, decode_size_px(config))
    assert small.shape[0] * 2 == full.shape[0]
    camera = make_camera(full.shape[1::-1])
    images = [
        to_pinhole(make_view(fit_camera(camera, image, 'front'), image), size_px)[0].astype(float)
        for image in (full, small)
    ]
    difference = np.abs(images[0] - images[1])
    return difference.mean(), difference.max()


def test_shrunk_decoding_is_close_on_a_synthetic_image():
    rng = np.random.default_rng(0)
    image = make_image((1600, 900)).astype(float)
    image[300:600, 500:900] += rng.normal(0, 25, (300, 400, 1))  # texture
    mean, largest = compare_decoders(jpeg(image.clip(0, 255).astype(np.uint8)), SIZE_PX)
    print(f'\ndecoded at half size, synthetic: mean {mean:.2f}, max {largest:.0f} of 255')
    assert mean < 1.0 and largest < 16


def test_shrunk_decoding_is_close_on_real_images(shared_data):
    files = sorted((shared_data / 'nuscenes_devkit_root' / 'samples').glob('CAM_*/*.jpg'))
    if not files:
        pytest.skip('no real images')
    worst = 0.0, 0.0
    for file in files:
        message = Plain(header=Plain(frame_id='x'), format='jpeg', data=file.read_bytes())
        worst = tuple(map(max, worst, compare_decoders(message, SIZE_PX)))
    print(f'\ndecoded at half size, {len(files)} real: mean {worst[0]:.2f}, max {worst[1]:.0f}')
    assert worst[0] < 0.6 and worst[1] < 16


def test_decode_size_leaves_room_for_the_crop():
    """Whatever the aspect ratio, an image decoded at `decode_size_px` is never enlarged."""
    config = ModelConfig()
    width, height = decode_size_px(config)
    for size_px in ((width, height), (3 * width, height), (width, 3 * height)):
        scale = max(400 / size_px[0], 224 / size_px[1])
        assert scale <= 0.5


def test_cameras_with_equal_values_share_a_plan():
    """Messages bring a new Camera each time; equal values must not be planned again."""
    from bev_perception.preprocess import _plan

    def camera(fx=300.0):
        K = np.array([[fx, 0, 320], [0, 300, 240], [0, 0, 1]])
        return Camera(K=K, size_px=(640, 480), **LENSES['plumb_bob'])

    assert _plan(camera(), SIZE_PX) is _plan(camera(), SIZE_PX)
    assert _plan(camera(), SIZE_PX) is not _plan(camera(301.0), SIZE_PX)
