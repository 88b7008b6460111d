"""Camera images of the world: exact pinhole projections, painted from far to near.

The ground is warped into the image by the homography of the plane z = 0; objects are convex
polygons, ordered by planes that separate them, so that no depth buffer is needed. Images are RGB,
pixel centres are integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from bev_perception.errors import ConfigError
from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_perception.shapes import Array, ImageRgb, Index, Mask, Rigid
from bev_training.synthetic.ground import GRASS, LEVELS, SHADOW, SUN, Ground, shadow
from bev_training.synthetic.ordering import far_to_near
from bev_training.synthetic.world import World

HAZE = np.array([0.80, 0.855, 0.90])
_ZENITH = np.array([0.27, 0.47, 0.76])
_HAZE_M = 330.0  # distance at which 63 % of the light is haze
_CLEAR_M = 15.0  # no haze up to here
_NEAR_M = 0.2
_FAR_M = 260.0  # objects beyond are not drawn
_SHADOW_M = 90.0  # moving shadows beyond are not drawn
_DETAIL_PX = 2.0  # paint on faces smaller than this is left out
_SHIFT = 4  # fractional bits of polygon corners
_AMBIENT = 0.60

# Bands of ground: patch level, how often halved, share of the patch's reach, rows per image row.
_BANDS = (
    (0, 0, 0.50, 1), (0, 0, 1.0, 2), (1, 0, 0.4, 2), (1, 0, 1.0, 3),
    (2, 0, 0.45, 4), (2, 1, 1.0, 4),
)  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class _Faces:
    """The faces of all actors at one time: (F, CORNERS, 3) in odom and what belongs to them."""

    corners: Array
    normals: Array
    colors: Array
    owner: Index
    part: Index
    decal: Mask


class Renderer:
    """Draws one world; keeps what does not change between images."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ground = Ground(world=world)
        shapes = [actor.shape for actor in world.actors]
        counts = [len(shape.colors) for shape in shapes]
        self._local = np.concatenate([shape.faces for shape in shapes])
        self._colors = np.concatenate([shape.colors for shape in shapes])
        self._decal = np.concatenate([shape.decal for shape in shapes])
        self._part = np.concatenate([shape.part for shape in shapes])
        self._owner = np.repeat(np.arange(len(shapes)), counts)
        self._first = np.cumsum([0, *counts])
        self._sizes = np.array([shape.size_m for shape in shapes])
        self._reach = np.linalg.norm(self._sizes[:, :2], axis=1) / 2

    def image(self, camera: Camera, odom_T_cam: Rigid, time_s: float) -> ImageRgb:
        """Return the image (height, width, 3) of a camera, RGB.

        Args:
            camera: a pinhole.
            odom_T_cam: pose of its optical frame.
            time_s: where moving actors are.

        Raises:
            ConfigError: the camera has lens distortion.
        """
        poses = self.world.poses(time_s)
        image = self._backdrop(camera, odom_T_cam)
        seen = self._seen(camera, odom_T_cam, poses)
        self._moving_shadows(image, camera, odom_T_cam, poses, seen)
        faces = self._faces(poses, seen)
        for polygon, color, _ in self._painted(camera, odom_T_cam, faces, poses, seen):
            cv2.fillConvexPoly(image, polygon, color, cv2.LINE_AA, _SHIFT)
        return image

    def identities(self, camera: Camera, odom_T_cam: Rigid, time_s: float) -> Array:
        """Return (height, width) int32: which actor a pixel shows, or -1."""
        poses = self.world.poses(time_s)
        image = np.full(camera.size_px[::-1], -1, np.int32)
        seen = self._seen(camera, odom_T_cam, poses)
        faces = self._faces(poses, seen)
        for polygon, _, owner in self._painted(camera, odom_T_cam, faces, poses, seen):
            cv2.fillConvexPoly(image, polygon, int(owner), cv2.LINE_8, _SHIFT)
        return image

    # Backdrop

    def _backdrop(self, camera: Camera, odom_T_cam: Rigid) -> ImageRgb:
        """Return sky and ground."""
        if not camera.is_pinhole:
            raise ConfigError(f'camera model is {camera.model!r}; only pinholes can be rendered')
        width, height = camera.size_px
        image = np.empty((height, width, 3), np.uint8)
        # Height of the ray per pixel, for rays of depth 1: affine in (u, v).
        up = odom_T_cam[2, :3] @ np.linalg.inv(camera.K)
        columns = np.arange(width)
        horizon = -(up[0] * columns + up[2]) / up[1]  # row of the horizon in every column
        first = int(np.clip(np.floor(horizon.min()) - 1, 0, height))
        self._draw_ground(image, camera, odom_T_cam, up, first)
        self._draw_haze(image, odom_T_cam[2, 3], up, first)
        last = int(np.clip(np.ceil(horizon.max()) + 1, 0, height))
        self._draw_sky(image[:last], camera, odom_T_cam, horizon, first)
        return image

    def _draw_ground(
        self, image: ImageRgb, camera: Camera, odom_T_cam: Rigid, up: Array, first: int
    ) -> None:
        """Warp the ground patches into the rows from `first` on."""
        height, width = image.shape[:2]
        pixel_T_odom = camera.K @ rigid.inverse(odom_T_cam)[:3][:, [0, 1, 3]]
        bottom = height
        base = odom_T_cam[:2, 3]
        edge = max(camera.K[0, 2] + 0.5, width - 0.5 - camera.K[0, 2]) / camera.K[0, 0]
        for number, (level, halved, share, fine) in enumerate(_BANDS):
            _, half, between = LEVELS[level]
            depth = share * (half - between / 2) / np.hypot(1, edge)
            # Row at which the ground in the middle column is `depth` away.
            row = (-odom_T_cam[2, 3] / depth - up[2] - up[0] * width / 2) / up[1]
            top = first if number == len(_BANDS) - 1 else int(np.clip(np.ceil(row), first, height))
            if top >= bottom:
                continue
            patch = self.ground.patch(level, base)
            fine_T_row = np.array([[1, 0, 0], [0, 1 / fine, top + 0.5 / fine - 0.5], [0, 0, 1]])
            matrix = np.linalg.inv(pixel_T_odom @ patch.odom_T_pixel(halved)) @ fine_T_row
            grass = tuple(255.0 * c for c in GRASS)
            band = cv2.warpPerspective(
                patch.images[halved], matrix, (width, (bottom - top) * fine),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT,
                borderValue=grass,
            )  # fmt: skip
            if fine > 1:
                band = cv2.resize(band, (width, bottom - top), interpolation=cv2.INTER_AREA)
            image[top:bottom] = band
            bottom = top

    def _draw_haze(self, image: ImageRgb, height_m: float, up: Array, first: int) -> None:
        """Blend the ground with haze, by distance along the view's depth."""
        height, width = image.shape[:2]
        row = (-height_m / _CLEAR_M - up[2] - up[0] * width / 2) / up[1]
        last = int(np.clip(np.ceil(row), first, height))
        if last <= first:
            return
        columns = np.linspace(0, width - 1, 17)  # the horizon is a line: 17 columns describe it
        fall = up[0] * columns + up[1] * np.arange(first, last)[:, None] + up[2]
        veil = _veil(height_m / np.maximum(-fall, 1e-4)).astype(np.float32)
        veil = cv2.resize(veil, (width, last - first), interpolation=cv2.INTER_LINEAR)[..., None]
        rows = image[first:last]
        rows[:] = (rows + veil * (np.float32(255 * HAZE) - rows) + 0.5).astype(np.uint8)

    def _draw_sky(
        self, image: ImageRgb, camera: Camera, odom_T_cam: Rigid, horizon: Array, first: int
    ) -> None:
        """Paint the rows above the horizon, with a ridge of distant trees at it."""
        height, width = image.shape[:2]
        if not height:
            return
        columns = np.linspace(0, width - 1, 33)
        levels = np.interp(columns, np.arange(width), horizon) - np.arange(height)[:, None]
        share = np.clip(levels / camera.K[1, 1] / 0.45, 0, 1)[..., None] ** 0.7
        sky = (255 * (HAZE + share * (_ZENITH - HAZE)) + 0.5).astype(np.uint8)
        sky = cv2.resize(sky, (width, height), interpolation=cv2.INTER_LINEAR)
        above = np.arange(first, height)[:, None] < horizon
        image[:first] = sky[:first]
        image[first:][above] = sky[first:][above]
        for number, (rise, tint) in enumerate(((0.021, 0.20), (0.011, 0.42))):
            steps = np.arange(0, width + 8, 8)
            ray = (
                odom_T_cam[:2, :3]
                @ np.linalg.inv(camera.K)
                @ np.stack([steps, np.full(len(steps), horizon.mean()), np.ones(len(steps))])
            )
            bearing = np.arctan2(ray[1], ray[0])
            waves = _skyline(bearing, self.world.seed + number)
            ridge = np.interp(steps, np.arange(width), horizon)
            top = ridge - camera.K[1, 1] * rise * waves
            outline = np.stack([np.r_[steps, steps[::-1]], np.r_[top, ridge[::-1] + 0.5]], -1)
            color = HAZE + tint * (np.array([0.25, 0.36, 0.27]) - HAZE)
            points = (outline * 16).round().astype(np.int32).reshape(-1, 1, 2)
            cv2.fillPoly(image, [points], tuple(255 * color), cv2.LINE_AA, _SHIFT)

    # Objects

    def _seen(self, camera: Camera, odom_T_cam: Rigid, poses: Array) -> Array:
        """Return the actors that may be in the image, far to near."""
        middle = np.concatenate([poses[:, :2], self._sizes[:, 2:] / 2], 1)
        radius = np.hypot(self._reach, self._sizes[:, 2] / 2)
        points = rigid.transform_points(rigid.inverse(odom_T_cam), middle)
        half = np.array(camera.size_px) / 2 + np.abs(
            camera.K[:2, 2] - np.array(camera.size_px) / 2
        )
        slope = half[0] / camera.K[0, 0]
        outside = (np.abs(points[:, 0]) - slope * points[:, 2]) / np.hypot(1, slope)
        keep = (points[:, 2] > -radius) & (points[:, 2] < _FAR_M) & (outside < radius)
        seen = np.flatnonzero(keep)
        order = far_to_near(poses[seen], self._sizes[seen, :2], odom_T_cam[:2, 3])
        return seen[order]

    def _faces(self, poses: Array, seen: Array) -> _Faces:
        """Place the faces of actors in odom."""
        index = np.concatenate(
            [np.arange(self._first[i], self._first[i + 1]) for i in seen] or [np.arange(0)]
        ).astype(int)
        owner = self._owner[index]
        c, s = np.cos(poses[owner, 2])[:, None], np.sin(poses[owner, 2])[:, None]
        x, y, z = np.moveaxis(self._local[index], -1, 0)
        where = poses[owner]
        corners = np.stack([c * x - s * y + where[:, :1], s * x + c * y + where[:, 1:2], z], -1)
        edges = corners[:, 1:3] - corners[:, :1]
        normals = np.cross(edges[:, 0], edges[:, 1])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return _Faces(
            corners=corners, normals=normals, colors=self._colors[index], owner=owner,
            part=self._part[index], decal=self._decal[index],
        )  # fmt: skip

    def _painted(
        self, camera: Camera, odom_T_cam: Rigid, faces: _Faces, poses: Array, seen: Array
    ) -> list[tuple[Array, tuple[float, ...], int]]:
        """Return (polygon in 1/16 px, colour, actor) of the visible faces, in painting order."""
        eye = odom_T_cam[:3, 3]
        to_eye = eye - faces.corners[:, 0]
        facing = (faces.normals * to_eye).sum(1) > 1e-9
        points = rigid.transform_points(rigid.inverse(odom_T_cam), faces.corners)
        depth = points[..., 2]
        keep = np.flatnonzero(facing & (depth.max(1) > _NEAR_M))
        points, depth = points[keep], depth[keep]
        safe = np.maximum(depth, _NEAR_M)[..., None]
        uv = points[..., :2] / safe * (camera.K[0, 0], camera.K[1, 1]) + camera.K[:2, 2]
        low, high = uv.min(1), uv.max(1)
        limit = np.array(camera.size_px)
        whole = depth.min(1) > _NEAR_M
        inside = ~whole | ((high > -1).all(1) & (low < limit).all(1))
        inside &= ~whole | ~faces.decal[keep] | ((high - low).max(1) > _DETAIL_PX)
        rank = np.empty(len(poses), int)
        rank[seen] = np.arange(len(seen))
        order = self._part_order(faces, eye, keep, rank)
        colors = _shade(faces, keep, eye)
        shown = [i for i in order if inside[i]]
        roomy = whole & (low > -2 * limit).all(1) & (high < 3 * limit).all(1)
        fixed = (uv * 2**_SHIFT).round().astype(np.int32)
        result = []
        for i in shown:
            polygon = fixed[i] if roomy[i] else _clipped(points[i], camera)
            if len(polygon) > 2:
                result.append((polygon, colors[i], int(faces.owner[keep[i]])))
        return result

    def _part_order(self, faces: _Faces, eye: Array, keep: Index, rank: Index) -> Index:
        """Order faces: actors far to near, then their solids, then paint over faces."""
        key = faces.owner.astype(np.int64) * 16 + faces.part
        solids, inverse = np.unique(key, return_inverse=True)
        z = faces.corners[..., 2]
        low, high = np.full(len(solids), np.inf), np.full(len(solids), -np.inf)
        np.minimum.at(low, inverse, np.where(faces.decal, np.inf, z.min(1)))
        np.maximum.at(high, inverse, np.where(faces.decal, -np.inf, z.max(1)))
        apart = np.maximum(np.maximum(low - eye[2], eye[2] - high), 0)  # stacked solids
        middle = np.zeros((len(solids), 2))
        np.add.at(middle, inverse, faces.corners[..., :2].mean(1))
        middle /= np.bincount(inverse)[:, None]
        away = np.linalg.norm(middle - eye[:2], axis=1)  # solids side by side
        order: Index = np.lexsort(
            (keep, -away[inverse[keep]], -apart[inverse[keep]], rank[faces.owner[keep]])
        )
        return order

    def _moving_shadows(
        self, image: ImageRgb, camera: Camera, odom_T_cam: Rigid, poses: Array, seen: Array
    ) -> None:
        """Darken the ground beside moving actors; those of standing ones are in the patches."""
        cam_T_odom = rigid.inverse(odom_T_cam)
        for i in seen:
            actor = self.world.actors[i]
            distance = float(np.linalg.norm(poses[i, :2] - odom_T_cam[:2, 3]))
            if actor.lane is None or distance > _SHADOW_M:
                continue
            outline = shadow(actor.shape.faces, poses[i])
            points = np.concatenate([outline, np.zeros((len(outline), 1))], 1)
            polygon = _clipped(rigid.transform_points(cam_T_odom, points), camera)
            if len(polygon) < 3:
                continue
            low = np.clip((polygon.min(0) >> _SHIFT) - 1, 0, camera.size_px)
            high = np.clip((polygon.max(0) >> _SHIFT) + 2, 0, camera.size_px)
            if (high <= low).any():
                continue
            mask = np.zeros((high - low)[::-1], np.uint8)
            local = polygon - (low << _SHIFT)
            cv2.fillConvexPoly(mask, local.astype(np.int32), 255, cv2.LINE_AA, _SHIFT)
            part = image[low[1] : high[1], low[0] : high[0]]
            dark = (1 - SHADOW) * (1 - float(_veil(np.array(distance)))) / 255
            part[:] = (part * (1 - dark * mask.astype(np.float32))[..., None]).astype(np.uint8)


def _veil(distance_m: Array) -> Array:
    """Return the share of haze in the light from a distance, 0..1."""
    veil: Array = 1 - np.exp(-np.maximum(distance_m - _CLEAR_M, 0) / _HAZE_M)
    return veil


def _skyline(bearing: Array, seed: int) -> Array:
    """Return a wavy profile around 0.3..1 over bearings in radians, without a seam."""
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi, 4)
    waves = zip((5, 13, 41, 97), (0.16, 0.10, 0.06, 0.04), phase, strict=True)
    return 0.65 + sum(size * np.sin(rate * bearing + at) for rate, size, at in waves)


def _shade(faces: _Faces, keep: Index, eye: Array) -> list[tuple[float, ...]]:
    """Return the lit, hazy colours of faces, 0..255."""
    light = _AMBIENT + 0.55 * np.maximum(faces.normals[keep] @ SUN, 0)
    light += 0.08 * faces.normals[keep, 2]
    color = np.clip(faces.colors[keep] * light[:, None], 0, 1)
    veil = _veil(np.linalg.norm(faces.corners[keep].mean(1) - eye, axis=1))[:, None]
    return [tuple(row) for row in (255 * (color + veil * (HAZE - color))).tolist()]


def _clipped(points_cam: Array, camera: Camera) -> Array:
    """Return the part of a convex polygon that lies before and near the image, in 1/16 px.

    The polygon is cut at the near plane and at a frame three images wide.
    """
    (fx, _, cx), (_, fy, cy), _ = camera.K
    width, height = camera.size_px
    planes = (
        (0, 0, 1, -_NEAR_M),
        (fx, 0, cx + width, 0), (-fx, 0, 2 * width - cx, 0),
        (0, fy, cy + height, 0), (0, -fy, 2 * height - cy, 0),
    )  # fmt: skip
    polygon = points_cam
    if (
        points_cam @ np.array([plane[:3] for plane in planes]).T + [p[3] for p in planes] >= 0
    ).all():
        uv = polygon[:, :2] / polygon[:, 2:] * (fx, fy) + (cx, cy)
        return (uv * 2**_SHIFT).round().astype(np.int32)
    for *normal, offset in planes:
        inside = polygon @ np.array(normal) + offset
        after, nxt = np.roll(inside, -1), np.roll(polygon, -1, axis=0)
        kept = []
        for i in range(len(polygon)):
            if inside[i] >= 0:
                kept.append(polygon[i])
            if (inside[i] >= 0) != (after[i] >= 0):
                share = inside[i] / (inside[i] - after[i])
                kept.append(polygon[i] + share * (nxt[i] - polygon[i]))
        if len(kept) < 3:
            return np.zeros((0, 2), np.int32)
        polygon = np.array(kept)
    uv = polygon[:, :2] / polygon[:, 2:] * (fx, fy) + (cx, cy)
    return (uv * 2**_SHIFT).round().astype(np.int32)
