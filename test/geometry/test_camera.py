"""Camera models: worked examples, OpenCV as oracle, round trips, borders, fold-back."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bev_perception.errors import CalibrationError
from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera

K = np.array([[400.0, 0, 310], [0, 410, 250], [0, 0, 1]])
SIZE = (640, 480)
COEFFICIENTS = {
    'pinhole': (),
    'plumb_bob': (-0.1, 0.02, 0.001, -0.002, 0.003),
    'rational_polynomial': (0.9, 0.2, 0.0005, -0.001, 0.01, 1.1, 0.3, 0.02),
    'equidistant': (0.03, -0.01, 0.004, -0.001),
}
LENSES = {m: Camera(K=K, size_px=SIZE, model=m, D=D) for m, D in COEFFICIENTS.items()}
lenses = pytest.mark.parametrize('camera', LENSES.values(), ids=LENSES)


def pixels_over(camera: Camera, step: int = 16) -> np.ndarray:
    """Pixels over the whole image, its edges included."""
    width, height = camera.size_px
    u = np.append(np.arange(-0.5, width - 0.5, step), width - 0.5 - 1e-6)
    v = np.append(np.arange(-0.5, height - 0.5, step), height - 0.5 - 1e-6)
    return np.stack(np.meshgrid(u, v), -1)


def angle_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Radians, exact for small angles too."""
    return np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(-1))


def test_ground_point_seen_by_a_forward_camera_by_hand():
    # The camera sits at ego (1, 0, 1.5) and looks forward. A ground point at ego (11, 2, 0) is
    # 10 m ahead of it, 2 m to its left and 1.5 m below: optical (x right, y down, z forward) is
    # (-2, 1.5, 10). u = 640 + 1000 * -2/10 = 440, v = 360 + 800 * 1.5/10 = 480.
    camera = Camera(K=np.array([[1000.0, 0, 640], [0, 800, 360], [0, 0, 1]]), size_px=(1280, 720))
    ego_T_cam = rigid.from_quat_xyzw((-0.5, 0.5, -0.5, 0.5), (1, 0, 1.5))
    points_cam = rigid.transform_points(rigid.inverse(ego_T_cam), np.array([[11.0, 2, 0]]))
    np.testing.assert_allclose(points_cam, [[-2, 1.5, 10]], atol=1e-12)
    uv, valid = camera.project(points_cam)
    np.testing.assert_allclose(uv, [[440, 480]])
    assert valid.all()


def test_plumb_bob_by_hand():
    # x/z = 0.5, y/z = 0, r2 = 0.25. radial = 1 + 0.1 * 0.25 + 0.2 * 0.0625 + 0.4 * 0.015625
    # = 1.04375. Tangential: dx = p2 (r2 + 2 x2) = 0.02 * 0.75 = 0.015, dy = p1 r2 = 0.01 * 0.25
    # = 0.0025. x' = 0.521875 + 0.015 = 0.536875, y' = 0.0025.
    camera = Camera(
        K=np.array([[1000.0, 0, 0], [0, 1000, 0], [0, 0, 1]]),
        size_px=SIZE,
        model='plumb_bob',
        D=(0.1, 0.2, 0.01, 0.02, 0.4),
    )
    uv, valid = camera.project(np.array([1.0, 0, 2]))
    np.testing.assert_allclose(uv, (536.875, 2.5))
    assert valid


def test_fisheye_sees_behind_its_image_plane_by_hand():
    # 120 degrees off the axis to the right, no distortion: u = 449.5 + 200 * 2 pi / 3 = 868.38.
    camera = Camera(
        K=np.array([[200.0, 0, 449.5], [0, 200, 449.5], [0, 0, 1]]),
        size_px=(900, 900),
        model='equidistant',
        D=(0, 0, 0, 0),
    )
    point = np.array([np.sin(np.radians(120)), 0, np.cos(np.radians(120))])
    uv, valid = camera.project(5 * point)
    np.testing.assert_allclose(uv, (449.5 + 200 * 2 * np.pi / 3, 449.5))
    assert valid
    np.testing.assert_allclose(camera.unproject(uv), point, atol=1e-12)
    uv, valid = camera.project(np.array([[0, 0, 2.0], [0, 0, -2.0]]))
    np.testing.assert_allclose(uv[0], (449.5, 449.5))
    assert valid.tolist() == [True, False]


def test_right_camera_of_a_stereo_pair_by_hand():
    # CameraInfo of the right camera: P[0,3] = -fx * baseline = -500 * 0.1 = -50. P is K [I | t],
    # so t = (-0.1, 0, 0). The point (1, 0.2, 5) of the left camera's frame is 0.9 m right of the
    # right camera: u = 320 + 500 * 0.9 / 5 = 410, v = 240 + 500 * 0.2 / 5 = 260. The left camera
    # sees it at u = 420; the disparity is fx * baseline / z = 50 / 5 = 10.
    P = np.array([[500.0, 0, 320, -50], [0, 500, 240, 0], [0, 0, 1, 0]])
    rect_T_cam = np.eye(4)
    rect_T_cam[:3, 3] = np.linalg.solve(P[:, :3], P[:, 3])
    np.testing.assert_allclose(rect_T_cam[:3, 3], (-0.1, 0, 0))
    point = np.array([1.0, 0.2, 5])
    right = Camera(K=P[:, :3], size_px=SIZE, rect_T_cam=rect_T_cam)
    uv, valid = right.project(point)
    np.testing.assert_allclose(uv, (410, 260))
    assert valid
    homogeneous = P @ [*point, 1]
    np.testing.assert_allclose(uv, homogeneous[:2] / homogeneous[2])
    np.testing.assert_allclose(Camera(K=P[:, :3], size_px=SIZE).project(point)[0], (420, 260))
    # The ray starts at the right camera, 0.1 m to the right of the frame's origin.
    ray = right.unproject(uv)
    np.testing.assert_allclose(ray * 5 / ray[2] + (0.1, 0, 0), point)


def test_rectifying_rotation_by_hand():
    # R turns the camera's forward (0, 0, 5) to (3, 0, 4) of the rectified frame, and then the
    # baseline shifts it to (2, 0, 4): u = 320 + 400 * 2/4 = 520. Shifting first would give
    # R (-1, 0, 5) = (2.2, 0, 4.6), u = 511.3.
    rect_T_cam = np.array([[0.8, 0, 0.6, -1], [0, 1, 0, 0], [-0.6, 0, 0.8, 0], [0, 0, 0, 1]])
    K_rect = np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]])
    camera = Camera(K=K_rect, size_px=SIZE, rect_T_cam=rect_T_cam)
    uv, valid = camera.project(np.array([0, 0, 5.0]))
    np.testing.assert_allclose(uv, (520, 240))
    assert valid
    # Pixel 620 is (3, 0, 4) of the rectified frame: the camera's own forward direction.
    np.testing.assert_allclose(camera.unproject(np.array([620.0, 240])), (0, 0, 1), atol=1e-12)


@lenses
def test_agrees_with_opencv(camera):
    rays = camera.unproject(pixels_over(camera)).reshape(-1, 3)
    rays = rays[rays[:, 2] > 0.05]  # OpenCV divides by z
    points = rays * np.linspace(0.5, 60, len(rays))[:, None]
    zero, D = np.zeros(3), np.array(camera.D)
    if camera.model == 'equidistant':
        expected, _ = cv2.fisheye.projectPoints(points[:, None], zero, zero, camera.K, D)
    else:
        expected, _ = cv2.projectPoints(points, zero, zero, camera.K, D)
    uv, _ = camera.project(points)
    np.testing.assert_allclose(uv, expected[:, 0], atol=1e-6)
    assert len(points) > 1000


@lenses
def test_every_pixel_survives_the_way_out_and_back(camera):
    uv = pixels_over(camera)
    rays = camera.unproject(uv)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1)
    again, valid = camera.project(rays * 7.5)
    np.testing.assert_allclose(again, uv, atol=1e-7)
    # Rounding may push a pixel at the very edge over it.
    assert valid[1:-1, 1:-1].all()


@lenses
@given(data=st.data())
def test_seen_points_lie_on_their_ray(camera, data):
    coordinate = st.floats(-20, 20)
    point = np.array(data.draw(st.tuples(coordinate, coordinate, coordinate)))
    assume(np.linalg.norm(point) > 0.01)
    uv, valid = camera.project(point)
    if valid:
        assert angle_between(camera.unproject(uv), point) < 1e-9


@given(st.floats(-0.5, 0.3), st.floats(-0.1, 0.1), st.floats(-3, 3), st.floats(-3, 3))
def test_no_plumb_bob_lens_shows_two_directions_in_one_pixel(k1, k2, x, y):
    camera = Camera(K=K, size_px=SIZE, model='plumb_bob', D=(k1, k2, 0, 0))
    point = np.array([x, y, 1])
    uv, valid = camera.project(point)
    if valid:
        assert angle_between(camera.unproject(uv), point) < 1e-5


@given(
    st.floats(-0.15, 0.3),
    st.floats(-0.02, 0.02),
    st.floats(-0.01, 0.01),
    st.floats(-0.01, 0.01),
    st.floats(-0.7, 0.7),
    st.floats(-0.7, 0.7),
)
def test_lenses_mounted_askew_are_inverted_too(k1, k2, p1, p2, x, y):
    camera = Camera(K=K, size_px=SIZE, model='plumb_bob', D=(k1, k2, p1, p2))
    point = np.array([x, y, 1])
    uv, _ = camera.project(point)
    assert angle_between(camera.unproject(uv), point) < 1e-9


@given(*[st.floats(-0.3, 0.3)] * 4, st.floats(0, np.pi), st.floats(-np.pi, np.pi))
def test_no_fisheye_shows_two_directions_in_one_pixel(k1, k2, k3, k4, theta, around):
    camera = Camera(K=K, size_px=SIZE, model='equidistant', D=(k1, k2, k3, k4))
    point = np.array(
        [np.sin(theta) * np.cos(around), np.sin(theta) * np.sin(around), np.cos(theta)]
    )
    uv, valid = camera.project(point)
    if valid:
        assert angle_between(camera.unproject(uv), point) < 1e-5


@pytest.mark.parametrize('camera', [c for n, c in LENSES.items() if n != 'equidistant'])
@given(x=st.floats(-5, 5), y=st.floats(-5, 5), z=st.floats(-50, 0))
def test_points_behind_are_not_seen(camera, x, y, z):
    uv, valid = camera.project(np.array([x, y, z]))
    assert not valid
    assert np.isfinite(uv).all()


@lenses
def test_the_camera_s_own_centre_and_broken_points_are_not_seen(camera):
    points = np.array(
        [[0, 0, 0], [np.nan, 0, 1], [0, np.inf, 1], [0, 0, np.inf], [0, 0, -np.inf], [0, 0, 1]]
    )
    with np.errstate(all='raise'):
        uv, valid = camera.project(points)
        shift = rigid.from_quat_xyzw((0, 0, 0, 1), (0, 0, 1))  # the origin comes into view
        _, valid_shifted = replace(camera, rect_T_cam=shift).project(points)
    assert valid.tolist() == [False] * 5 + [True]
    assert valid_shifted.tolist() == [True] + [False] * 4 + [True]
    assert np.isfinite(uv).all()


def test_strong_barrel_does_not_fold_the_outside_into_the_image():
    # r (1 - 0.35 r2) grows up to r = 1 / sqrt(3 * 0.35) = 0.9759 (44.3 degrees), where the pixel
    # radius is 400 * 0.9759 * 2/3 = 260.2. Beyond, it comes back: at r = 1 / sqrt(0.35) = 1.690
    # (59.4 degrees) the formula gives 0, the very centre of the image.
    camera = Camera(K=K, size_px=SIZE, model='plumb_bob', D=(-0.35, 0, 0, 0))
    folds_to_centre = np.array([1 / np.sqrt(0.35), 0, 1])
    oracle, _ = cv2.projectPoints(
        folds_to_centre[None], np.zeros(3), np.zeros(3), K, np.array(camera.D)
    )
    np.testing.assert_allclose(oracle[0, 0], (310, 250), atol=1e-9)  # OpenCV shows the trap
    _, valid = camera.project(folds_to_centre)
    assert not valid
    r = np.concatenate([np.linspace(0.98, 3, 500), np.logspace(0.5, 6, 50)])
    for direction in ((1, 0), (0, -1), (-0.6, 0.8)):
        points = np.stack([r * direction[0], r * direction[1], np.ones_like(r)], -1)
        assert not camera.project(points)[1].any()
    # Just inside the peak the lens still sees: 310 + 260.17 is within the 640 columns.
    uv, valid = camera.project(np.array([0.97, 0, 1]))
    assert valid
    assert np.linalg.norm(uv - (310, 250)) == pytest.approx(400 * 0.97 * (1 - 0.35 * 0.97**2))


def test_pixels_that_no_ray_reaches_give_the_largest_angle():
    camera = Camera(K=K, size_px=SIZE, model='plumb_bob', D=(-0.35, 0, 0, 0))
    # Radii from 260.3 (just beyond the 260.2 that the lens reaches) to 400 pixels.
    uv = np.array([310, 250]) + np.linspace(260.3, 400, 50)[:, None] * np.array([1, 0])
    rays = camera.unproject(uv)
    angles = np.degrees(np.arctan2(np.hypot(rays[:, 0], rays[:, 1]), rays[:, 2]))
    np.testing.assert_allclose(angles, 44.3, atol=0.15)
    assert (rays[:, 0] > 0).all()


def test_both_sides_of_every_image_border():
    # 64 x 32 pixels: u spans [-0.5, 63.5), v spans [-0.5, 31.5). Powers of two keep it exact.
    camera = Camera(K=[[128, 0, 31.5], [0, 128, 15.5], [0, 0, 1]], size_px=(64, 32))
    hair = 2.0**-20
    for u, v, seen in [
        (-0.5, 15, True),
        (-0.5 - hair, 15, False),
        (63.5 - hair, 15, True),
        (63.5, 15, False),
        (31, -0.5, True),
        (31, -0.5 - hair, False),
        (31, 31.5 - hair, True),
        (31, 31.5, False),
        (-0.5, -0.5, True),
        (63.5, 31.5, False),
    ]:
        uv, valid = camera.project(np.array([(u - 31.5) / 128, (v - 15.5) / 128, 1]))
        assert uv.tolist() == [u, v]
        assert valid == seen, (u, v)


@lenses
@given(size=st.tuples(st.integers(1, 2000), st.integers(1, 2000)))
def test_resized_camera_gives_the_resized_pixel(camera, size):
    points = camera.unproject(pixels_over(camera, 40)) * 3
    uv, _ = camera.project(points)
    resized = camera.resized(size)
    assert resized.size_px == size
    sx, sy = size[0] / 640, size[1] / 480
    expected = np.stack([(uv[..., 0] + 0.5) * sx - 0.5, (uv[..., 1] + 0.5) * sy - 0.5], -1)
    np.testing.assert_allclose(resized.project(points)[0], expected, atol=1e-8)
    assert resized.project(points)[1][1:-1, 1:-1].all()


@lenses
@given(left=st.integers(-50, 300), top=st.integers(-50, 200))
def test_cropped_camera_gives_the_shifted_pixel(camera, left, top):
    points = camera.unproject(pixels_over(camera, 40)) * 3
    uv, inside_lens = camera.project(points)
    cropped = camera.cropped(left, top, 200, 100)
    assert cropped.size_px == (200, 100)
    got, valid = cropped.project(points)
    np.testing.assert_allclose(got, uv - (left, top), atol=1e-9)
    inside = ((got >= -0.5) & (got < (199.5, 99.5))).all(axis=-1)
    np.testing.assert_array_equal(valid & inside_lens, inside & inside_lens)


def test_skewed_camera_and_its_resize_by_hand():
    # A skew of 8: u = 310 + 400 * 1/4 + 8 * 2/4 = 414, v = 250 + 410 * 2/4 = 455.
    camera = Camera(K=K + np.array([[0, 8, 0], [0, 0, 0], [0, 0, 0]]), size_px=SIZE)
    uv, _ = camera.project(np.array([1.0, 2, 4]))
    np.testing.assert_allclose(uv, (414, 455))
    np.testing.assert_allclose(camera.unproject(uv), np.array([1, 2, 4]) / np.sqrt(21))
    # Half as wide, a quarter as high: fx 200, skew 4, cx (310 + 0.5) / 2 - 0.5 = 154.75;
    # fy 102.5, cy (250 + 0.5) / 4 - 0.5 = 62.125.
    np.testing.assert_allclose(
        camera.resized((320, 120)).K, [[200, 4, 154.75], [0, 102.5, 62.125], [0, 0, 1]]
    )


def test_a_picture_resized_by_opencv_shows_the_point_where_the_resized_camera_says():
    camera = LENSES['pinhole']
    point = np.array([0.33, -0.21, 2])
    uv, _ = camera.project(point)
    u, v = np.meshgrid(np.arange(640), np.arange(480))
    blob = np.exp(-((u - uv[0]) ** 2 + (v - uv[1]) ** 2) / (2 * 10**2))
    small = cv2.resize(blob, (160, 120), interpolation=cv2.INTER_AREA)
    u, v = np.meshgrid(np.arange(160), np.arange(120))
    centroid = np.array([(u * small).sum(), (v * small).sum()]) / small.sum()
    np.testing.assert_allclose(camera.resized((160, 120)).project(point)[0], centroid, atol=1e-3)


@lenses
@pytest.mark.parametrize('shape', [(), (1,), (5,), (2, 3), (4, 1, 2), (0,)])
def test_any_leading_axes(camera, shape):
    points = np.ones((*shape, 3)) * (0.2, 0.1, 2)
    uv, valid = camera.project(points)
    assert uv.shape == (*shape, 2)
    assert valid.shape == shape
    assert camera.unproject(uv).shape == (*shape, 3)
    assert camera.contains(uv).shape == shape


def test_undistorted_lens_of_any_perspective_model_is_a_pinhole():
    points = np.random.default_rng(0).normal(size=(100, 3))
    for model, zeros in (('plumb_bob', 4), ('plumb_bob', 5), ('rational_polynomial', 8)):
        camera = Camera(K=K, size_px=SIZE, model=model, D=(0,) * zeros)
        assert camera.is_pinhole
        for got, want in zip(
            camera.project(points), LENSES['pinhole'].project(points), strict=True
        ):
            np.testing.assert_array_equal(got, want)
    assert not Camera(K=K, size_px=SIZE, model='equidistant', D=(0, 0, 0, 0)).is_pinhole
    assert LENSES['plumb_bob'].pinhole() == LENSES['pinhole']


def test_cameras_compare_by_value_and_cannot_change():
    values = K.copy()
    camera = Camera(K=values, size_px=SIZE)
    values[0, 0] = 1  # the caller's array is not the camera's
    assert camera == Camera(K=K.tolist(), size_px=[640, 480])
    assert hash(camera) == hash(LENSES['pinhole'])
    assert camera.resized((320, 240)) != camera
    assert camera.cropped(1, 0, 640, 480) != camera
    assert camera.cropped(0, 0, 639, 480) != camera
    assert LENSES['plumb_bob'] != LENSES['rational_polynomial']
    with pytest.raises(ValueError, match='read-only'):
        camera.K[0, 0] = 1
    with pytest.raises(ValueError, match='read-only'):
        camera.rect_T_cam[0, 3] = 1


def changed(matrix, row, column, value):
    matrix = np.array(matrix, float)
    matrix[row, column] = value
    return matrix


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'K': np.zeros((3, 3))}, r'K\[0,0\] is 0; camera uncalibrated'),
        ({'K': changed(K, 1, 1, 0)}, 'no camera matrix'),
        ({'K': changed(K, 0, 0, -400)}, 'no camera matrix'),
        ({'K': changed(K, 1, 0, 5)}, 'no camera matrix'),
        ({'K': changed(K, 2, 2, 2)}, 'no camera matrix'),
        ({'K': changed(K, 0, 2, np.nan)}, 'finite 3x3'),
        ({'K': np.eye(4)}, 'finite 3x3'),
        ({'size_px': (0, 480)}, r'\(0, 480\)'),
        ({'size_px': (640, -1)}, r'\(640, -1\)'),
        ({'model': 'fov'}, "'fov' is unknown; known are .*plumb_bob"),
        ({'model': 'plumb_bob', 'D': (0.1,)}, 'needs 4 or 5'),
        ({'model': 'rational_polynomial', 'D': (0.1,) * 5}, 'needs 8'),
        ({'model': 'equidistant', 'D': ()}, 'has 0 coefficients .* needs 4'),
        ({'model': 'pinhole', 'D': (0.1, 0, 0, 0)}, 'needs 0'),
        ({'model': 'plumb_bob', 'D': (0.1, 0, np.nan, 0)}, 'nan'),
        ({'rect_T_cam': np.zeros((4, 4))}, 'no rotation'),
        ({'rect_T_cam': np.diag((-1, 1, 1, 1))}, 'no rotation'),
        ({'rect_T_cam': 2 * np.eye(4)}, 'no rotation'),
        ({'rect_T_cam': np.eye(3)}, 'finite 4x4'),
        ({'rect_T_cam': changed(np.eye(4), 0, 0, np.nan)}, 'finite 4x4'),
        ({'rect_T_cam': changed(np.eye(4), 0, 3, np.inf)}, 'finite 4x4'),
    ],
)
def test_what_is_no_camera_is_refused(values, message):
    with pytest.raises(CalibrationError, match=message):
        Camera(**{'K': K, 'size_px': SIZE, **values})
