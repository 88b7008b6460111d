"""Camera models of `sensor_msgs/CameraInfo`: pinhole, plumb_bob, rational_polynomial, equidistant.

Integer pixel coordinates are pixel centres; an image of width W spans u in [-0.5, W - 0.5).
Camera frames are optical: x right, y down, z forward (REP-103).
Distortion follows OpenCV: https://docs.opencv.org/4.x/d9/d0c/group__calib3d.html and, for
equidistant, https://docs.opencv.org/4.x/db/d58/group__calib3d__fisheye.html.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from bev_perception.errors import CalibrationError
from bev_perception.shapes import Array, Mask, Pixels, Points3, Rigid

LensModel = Literal['pinhole', 'plumb_bob', 'rational_polynomial', 'equidistant']
# Number of coefficients that each model may come with.
D_LENGTHS: dict[str, tuple[int, ...]] = {
    'pinhole': (0,),
    'plumb_bob': (4, 5),
    'rational_polynomial': (8,),
    'equidistant': (4,),
}
_NEAR_M = 1e-6  # a point must lie this far in front of a camera (fisheyes: from it)


@dataclass(frozen=True, eq=False, kw_only=True)
class Camera:
    """How a camera maps 3-D points of its optical frame to pixels.

    Attributes:
        K: (3, 3) intrinsics in pixels of an image of `size_px`.
        size_px: (width, height).
        model: lens model; `D` are its coefficients in OpenCV's order.
        rect_T_cam: (4, 4) applied to points before projecting: the rectifying rotation and the
            stereo baseline of a rectified image; identity for raw images.
    """

    K: Array
    size_px: tuple[int, int]
    model: LensModel = 'pinhole'
    D: tuple[float, ...] = ()
    rect_T_cam: Rigid = field(default_factory=lambda: np.eye(4))

    def __post_init__(self) -> None:
        """Check and freeze the values.

        Raises:
            CalibrationError: a value cannot belong to a camera.
        """
        K = np.array(self.K, np.float64)
        rect = np.array(self.rect_T_cam, np.float64)
        if K.shape != (3, 3) or not np.isfinite(K).all():
            raise CalibrationError(f'K is {K.tolist()}; it must be a finite 3x3 matrix')
        if K[0, 0] == 0:
            raise CalibrationError('K[0,0] is 0; camera uncalibrated')
        if K[0, 0] < 0 or K[1, 1] <= 0 or (K[2] != (0, 0, 1)).any() or K[1, 0] != 0:
            raise CalibrationError(f'K is {K.tolist()}; it is no camera matrix')
        if min(self.size_px) < 1:
            raise CalibrationError(f'image size is {self.size_px}; it must be positive')
        if self.model not in get_args(LensModel):
            raise CalibrationError(
                f'distortion model {self.model!r} is unknown; known are {get_args(LensModel)}'
            )
        if len(self.D) not in D_LENGTHS[self.model] or not np.isfinite(self.D).all():
            wanted = ' or '.join(str(n) for n in D_LENGTHS[self.model])
            raise CalibrationError(
                f'{self.model} has {len(self.D)} coefficients {self.D}; it needs {wanted}'
            )
        if rect.shape != (4, 4) or not np.isfinite(rect).all():
            raise CalibrationError(f'rect_T_cam is {rect.tolist()}; it must be finite 4x4')
        R = rect[:3, :3]
        if np.abs(R @ R.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R) < 0:
            raise CalibrationError(f'R is {R.tolist()}; it is no rotation')
        K.flags.writeable = rect.flags.writeable = False
        object.__setattr__(self, 'K', K)
        object.__setattr__(self, 'rect_T_cam', rect)
        object.__setattr__(self, 'size_px', (int(self.size_px[0]), int(self.size_px[1])))
        object.__setattr__(self, 'D', tuple(float(d) for d in self.D))

    @cached_property
    def key(self) -> bytes:
        """All values as bytes: equal keys mean equal cameras (used by caches)."""
        numbers = np.array([*self.size_px, *self.D], np.float64)
        return b''.join(
            (self.model.encode(), self.K.tobytes(), self.rect_T_cam.tobytes(), numbers.tobytes())
        )

    def __eq__(self, other: object) -> bool:
        """Compare by value."""
        return isinstance(other, Camera) and self.key == other.key

    def __hash__(self) -> int:
        """Hash by value."""
        return hash(self.key)

    @property
    def is_pinhole(self) -> bool:
        """Whether the image has no lens distortion."""
        return self.model == 'pinhole' or (not any(self.D) and self.model != 'equidistant')

    def project(self, points_cam: Points3) -> tuple[Pixels, Mask]:
        """Project points of the camera's optical frame.

        Args:
            points_cam: (..., 3) metres.

        Returns:
            (..., 2) pixels, and (...) whether the point is seen: in front of the camera, inside
            the angle at which the lens model is one-to-one, and inside the image. Points that
            are not finite are not seen. Pixels of points that are not seen are finite but mean
            nothing.
        """
        points = np.asarray(points_cam, np.float64)
        finite = np.asarray(np.isfinite(points).all(axis=-1))
        points = np.where(finite[..., None], points, 0)
        points = points @ self.rect_T_cam[:3, :3].T + self.rect_T_cam[:3, 3]
        xy, inside_lens = self._distort(points)
        uv = xy @ self.K[:2, :2].T + self.K[:2, 2]
        return uv, finite & inside_lens & self.contains(uv)

    def contains(self, uv: Pixels) -> Mask:
        """Whether pixels (..., 2) lie inside the image, whose edges are at -0.5 and size - 0.5."""
        inside = (uv >= -0.5) & (uv < np.array(self.size_px) - 0.5)
        return np.asarray(inside.all(axis=-1))

    def unproject(self, uv: Pixels) -> Points3:
        """Return unit rays (..., 3) in the optical frame through pixels (..., 2).

        Pixels that no ray of the lens reaches give the ray at the lens's largest angle.
        """
        xy = (np.asarray(uv, np.float64) - self.K[:2, 2]) @ np.linalg.inv(self.K[:2, :2]).T
        if self.model == 'equidistant':
            radius = np.linalg.norm(xy, axis=-1)
            theta = self._invert_radial(radius)
            scale = np.sin(theta) / np.where(radius > 1e-12, radius, 1)
            scale = np.where(radius > 1e-12, scale, 1.0)
            rays = np.concatenate([xy * scale[..., None], np.cos(theta)[..., None]], -1)
        else:
            rays = np.concatenate([self._undistort(xy), np.ones((*xy.shape[:-1], 1))], -1)
        rays = rays @ self.rect_T_cam[:3, :3]  # rows times R is R transposed times columns
        unit: Points3 = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
        return unit

    def resized(self, size_px: tuple[int, int]) -> Camera:
        """Return the camera of the image resized to (width, height): cx' = (cx + 0.5) s - 0.5."""
        s = np.array([size_px[0] / self.size_px[0], size_px[1] / self.size_px[1]])
        K = np.array(self.K)
        K[:2, :2] *= s[:, None]
        K[:2, 2] = (K[:2, 2] + 0.5) * s - 0.5
        return replace(self, K=K, size_px=size_px)

    def cropped(self, left: int, top: int, width: int, height: int) -> Camera:
        """Return the camera of a window of the image; the window may reach outside it."""
        K = np.array(self.K)
        K[:2, 2] -= (left, top)
        return replace(self, K=K, size_px=(width, height))

    def pinhole(self) -> Camera:
        """Return the undistorted camera with the same K and size."""
        return replace(self, model='pinhole', D=())

    # Lens models work on normalised coordinates: x/z, y/z before and after distortion.

    def _distort(self, points: Points3) -> tuple[Array, Mask]:
        """Distort points of the rectified frame; also say which lie inside the lens's range."""
        z = points[..., 2]
        if self.model == 'equidistant':
            radius = np.hypot(points[..., 0], points[..., 1])
            theta = np.arctan2(radius, z)
            theta_d = self._radial(theta)
            scale = theta_d / np.where(radius > 1e-12, radius, 1)
            # A point straight behind has no direction in the image.
            ahead = (radius > 1e-12) | (z > 0)
            inside = ahead & (theta < self._range) & (np.hypot(radius, z) > _NEAR_M)
            return points[..., :2] * scale[..., None], inside
        front = z > _NEAR_M
        xy = points[..., :2] / np.where(front, z, 1)[..., None]
        if self.is_pinhole:
            return np.where(front[..., None], xy, 0), front
        inside = front & (np.hypot(xy[..., 0], xy[..., 1]) < self._range)
        xy = np.where(inside[..., None], xy, 0)  # far outside, the polynomial overflows
        return self._brown_conrady(xy), inside

    def _brown_conrady(self, xy: Array) -> Array:
        """plumb_bob and rational_polynomial, OpenCV's equations."""
        k1, k2, p1, p2, k3, k4, k5, k6 = (*self.D, *(0.0,) * (8 - len(self.D)))
        x, y = xy[..., 0], xy[..., 1]
        r2 = x * x + y * y
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        dx = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        dy = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        return np.stack([x * radial + dx, y * radial + dy], -1)

    def _radial(self, r: Array) -> Array:
        """Distorted radius of an undistorted one (equidistant: of an angle), not tangential."""
        if self.model == 'equidistant':
            k1, k2, k3, k4 = self.D
            t2 = r * r
            return r * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
        k1, k2, _, _, k3, k4, k5, k6 = (*self.D, *(0.0,) * (8 - len(self.D)))
        r2 = r * r
        num = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        return r * num / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))

    @cached_property
    def _range(self) -> float:
        """Largest undistorted radius (angle for equidistant) up to which the lens is one-to-one.

        Beyond it a polynomial folds back, and points far outside the field of view would land
        inside the image.
        """
        limit = np.pi if self.model == 'equidistant' else np.tan(np.radians(88))
        r = np.linspace(0, limit, 20001)
        with np.errstate(over='ignore', invalid='ignore', divide='ignore'):
            falls = ~(np.diff(self._radial(r)) > 0)
        # r[i] - r[i + 1] is the first fall, so the peak lies after r[i - 1].
        return float(r[max(int(np.argmax(falls)) - 1, 0)]) if falls.any() else float(limit)

    def _invert_radial(self, radius_d: Array) -> Array:
        """Return the undistorted radius whose distorted one is `radius_d`, by bisection."""
        low, high = np.zeros_like(radius_d), np.full_like(radius_d, self._range)
        for _ in range(52):  # float64 has 53 bits
            mid = (low + high) / 2
            below = self._radial(mid) < radius_d
            low, high = np.where(below, mid, low), np.where(below, high, mid)
        return (low + high) / 2

    def _undistort(self, xy_d: Array) -> Array:
        """Invert `_brown_conrady`: bisect the radial part, then refine with Newton steps."""
        if self.is_pinhole:
            return xy_d
        radius_d = np.linalg.norm(xy_d, axis=-1, keepdims=True)
        safe = np.where(radius_d > 1e-12, radius_d, 1)
        xy = xy_d / safe * self._invert_radial(radius_d)
        step = 1e-6
        for _ in range(8):
            error = self._brown_conrady(xy) - xy_d
            jx = (self._brown_conrady(xy + (step, 0)) - self._brown_conrady(xy - (step, 0))) / 2e-6
            jy = (self._brown_conrady(xy + (0, step)) - self._brown_conrady(xy - (0, step))) / 2e-6
            det = jx[..., 0] * jy[..., 1] - jx[..., 1] * jy[..., 0]
            det = np.where(np.abs(det) > 1e-9, det, 1)
            dx = (jy[..., 1] * error[..., 0] - jy[..., 0] * error[..., 1]) / det
            dy = (jx[..., 0] * error[..., 1] - jx[..., 1] * error[..., 0]) / det
            new = xy - np.stack([dx, dy], -1)
            inside = np.linalg.norm(new, axis=-1, keepdims=True) < self._range
            xy = np.where(inside, new, xy)  # no ray reaches this pixel: keep the last one
        return xy
