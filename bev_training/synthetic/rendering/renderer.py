"""Images, semantics and depth of what a camera sees."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from bev_perception.geometry.camera import Camera
from bev_perception.shapes import AnyArray, ImageRgb, Mask, Rigid
from bev_training.synthetic.categories import SEMANTIC_ID, UNSEEN
from bev_training.synthetic.rendering.color import developed
from bev_training.synthetic.rendering.contact import Contact
from bev_training.synthetic.rendering.ground import Ground
from bev_training.synthetic.rendering.light import Light, Seen, dot, turned
from bev_training.synthetic.rendering.paint import Footprint
from bev_training.synthetic.rendering.scene import GROUND, NOTHING, Hits, Instant, Scene
from bev_training.synthetic.rendering.surfaces import Surfaces

_OFF_M = 0.02  # shadow rays start so far off a surface
_SHADOWS_FROM = 0.15  # a weaker sun casts none
_SHADOW_M = 250.0
_NOISE_SIDE = 512


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """What a camera sees at one time.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        semantics: (h, w) uint8, positions in `categories.SEMANTICS`, or UNSEEN.
        depth_m: (h, w) float32, z of the point in the optical frame; 0 where there is
            none: sky, no ray, or behind the image plane (in fisheyes, 90 degrees off the axis).
        actors: (h, w) int32, as `Hits.actor`.
    """

    image: ImageRgb
    semantics: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]
    actors: npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Lens:
    """Rays of a camera's pixels."""

    rays: AnyArray  # (N, 3) float32 unit, of the pixels that have one
    at: AnyArray | slice  # (N,) their numbers, row by row; all: a slice, which is quicker
    angle_rad: float  # of one pixel


class Renderer:
    """Makes views of a scene. Safe to share between threads."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        world = scene.world
        self.ground = Ground(world.town, world.palette)
        self._light = Light(world)
        self._contact = Contact(world)
        self._surfaces = Surfaces(world.town.seed)
        self._semantic = np.array([SEMANTIC_ID[a.category] for a in world.actors], np.uint8)
        rng = np.random.default_rng([world.seed, 73])
        self._noise = rng.standard_normal((_NOISE_SIDE, _NOISE_SIDE, 3)).astype(np.float32)
        self._lenses: dict[bytes, _Lens] = {}
        self._lock = threading.Lock()

    def view(
        self,
        camera: Camera,
        map_T_cam: Rigid,
        time_s: float,
        *,
        noise_seed: tuple[int, ...] = (),
    ) -> View:
        """Return what a camera sees.

        Args:
            camera: its lens; pixels that no ray reaches are black, with depth 0.
            map_T_cam: (4, 4) pose of the optical frame.
            time_s: seconds since the start of the drive.
            noise_seed: with the world's seed, decides the sensor's noise.
        """
        width, height = camera.size_px
        lens = self._lens(camera)
        instant = self.scene.at(time_s)
        directions = turned(lens.rays, map_T_cam[:3, :3])
        origins = np.broadcast_to(map_T_cam[:3, 3], directions.shape)
        hits = instant.cast(origins, directions)

        semantics = np.full(width * height, UNSEEN, np.uint8)
        actors = np.full(width * height, NOTHING, np.int32)
        depth = np.zeros(width * height, np.float32)
        light = np.zeros((width * height, 3), np.float32)
        actors[lens.at] = hits.actor
        with np.errstate(invalid='ignore'):  # inf times 0
            z = hits.distance_m * lens.rays[:, 2]
        depth[lens.at] = np.where((hits.actor == NOTHING) | (z < 0), np.float32(0), z)
        labels, lit = self._shaded(instant, hits, directions, map_T_cam[:3, 3], lens.angle_rad)
        semantics[lens.at] = labels
        light[lens.at] = lit
        image = self._developed(light.reshape(height, width, 3), noise_seed)
        if len(lens.rays) < width * height:
            dark = np.ones(width * height, bool)
            dark[lens.at] = False
            image.reshape(-1, 3)[dark] = 0
        return View(
            image=image,
            semantics=semantics.reshape(height, width),
            depth_m=depth.reshape(height, width),
            actors=actors.reshape(height, width),
        )

    def _lens(self, camera: Camera) -> _Lens:
        with self._lock:
            if camera.key not in self._lenses:
                if len(self._lenses) >= 16:
                    self._lenses.pop(next(iter(self._lenses)))
                self._lenses[camera.key] = _lens(camera)
            return self._lenses[camera.key]

    def _shaded(
        self, instant: Instant, hits: Hits, directions: AnyArray, eye: AnyArray, angle_rad: float
    ) -> tuple[AnyArray, AnyArray]:
        """Return semantics (N,) and linear light (N, 3) of hits."""
        conditions = self._light.conditions
        semantics = np.zeros(len(directions), np.uint8)
        light = np.empty((len(directions), 3), np.float32)
        nothing = hits.actor == NOTHING
        sky = np.flatnonzero(nothing)
        if len(sky):
            light[sky] = self._light.sky.toward(directions[sky])
        hit = np.flatnonzero(~nothing)
        actor, distance = hits.actor[hit], hits.distance_m[hit]
        view, normal, albedo = directions[hit], hits.normal[hit], hits.color[hit]
        point = view * distance[:, None]
        point += eye.astype(np.float32)
        open_sky = np.ones(len(hit), np.float32)

        on_ground = actor == GROUND
        of_ground, of_actors = np.flatnonzero(on_ground), np.flatnonzero(~on_ground)
        semantics[hit[of_actors]] = self._semantic[actor[of_actors]]
        if len(of_ground):
            footprint = _footprint(view[of_ground], distance[of_ground], angle_rad)
            where = point[of_ground, :2]
            open_sky[of_ground] = self._contact.open_sky(instant.poses, where, eye)
            semantics[hit[of_ground]], albedo[of_ground] = self.ground.seen(where, footprint)
        pixel_m = distance * np.float32(angle_rad)
        self._surfaces.weather(albedo, point, normal, hits.material[hit], pixel_m)
        seen = Seen(
            point=point, normal=normal, view=view, albedo=albedo, material=hits.material[hit],
            actor=actor, triangle=hits.triangle[hit],
            sunlit=self._sunlit(instant, point, normal), open_sky=open_sky,
        )  # fmt: skip
        lit = self._light.of(seen, instant.time_s, eye)
        haze = np.exp(distance * np.float32(-1 / conditions.haze_m))[:, None]
        horizon = np.array(conditions.horizon, np.float32)
        lit -= horizon
        lit *= haze
        lit += horizon
        light[hit] = lit
        return semantics, light

    def _sunlit(self, instant: Instant, point: AnyArray, normal: AnyArray) -> AnyArray:
        """Return (N,) 1 where the sun shines on a point, else 0."""
        conditions = self._light.conditions
        sunlit = np.ones(len(point), np.float32)
        if max(conditions.sun) < _SHADOWS_FROM:
            return sunlit
        sun = np.array(conditions.sun_direction, np.float32)
        facing = np.flatnonzero(dot(normal, sun) > 0)
        start = point[facing] + normal[facing] * np.float32(_OFF_M)
        toward = np.empty_like(start)
        toward[:] = sun
        sunlit[facing[instant.blocked(start, toward, _SHADOW_M)]] = 0
        return sunlit

    def _developed(self, light: AnyArray, noise_seed: tuple[int, ...]) -> ImageRgb:
        """Return the image (h, w, 3) that the camera makes of light."""
        conditions = self._light.conditions
        if conditions.lamps > 0:  # lamps dazzle
            bright = np.minimum(np.maximum(light - np.float32(0.7), 0), 3)
            sigma = light.shape[1] / 130
            light = light + np.float32(0.35) * cv2.GaussianBlur(bright, None, sigma)
        value = developed(light * np.float32(conditions.exposure))
        if conditions.contrast != 1:
            value -= np.float32(118)
            value *= np.float32(conditions.contrast)
            value += np.float32(118)
        noise = self._sensor_noise(light.shape, noise_seed)
        noise *= np.minimum(value, 200) * np.float32(0.6 / 128) + np.float32(0.4)  # photons
        value += noise
        return np.clip(value + np.float32(0.5), 0, 255).astype(np.uint8)

    def _sensor_noise(self, shape: tuple[int, ...], noise_seed: tuple[int, ...]) -> AnyArray:
        """Return noise (h, w, 3), cut from one tile at a place that the seed decides."""
        rng = np.random.default_rng([self.scene.world.seed, 74, *noise_seed])
        height, width, _ = shape
        rows = (rng.integers(_NOISE_SIDE) + np.arange(height)) % _NOISE_SIDE
        columns = (rng.integers(_NOISE_SIDE) + np.arange(width)) % _NOISE_SIDE
        return self._noise[rows][:, columns] * np.float32(self._light.conditions.noise)


def _lens(camera: Camera) -> _Lens:
    """Return the rays of all pixels that have one."""
    width, height = camera.size_px
    uv = (
        np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2).astype(float)
    )
    rays = camera.unproject(uv)
    back, seen = camera.project(rays)
    has_ray: Mask = seen & (np.abs(back - uv).max(-1) < 0.05)
    has_ray |= camera.is_pinhole
    middle = camera.unproject(
        np.array([[width / 2, height / 2], [width / 2 + 1, height / 2]], float)
    )
    angle = float(np.linalg.norm(middle[1] - middle[0]))
    at = slice(None) if has_ray.all() else np.flatnonzero(has_ray)
    return _Lens(rays=rays[has_ray].astype(np.float32), at=at, angle_rad=angle)


def _footprint(view: AnyArray, distance_m: AnyArray, angle_rad: float) -> Footprint:
    """Return what pixels cover of level ground."""
    across = distance_m * np.float32(angle_rad)
    flat = np.sqrt(view[:, 0] ** 2 + view[:, 1] ** 2) + np.float32(1e-6)
    along = across / np.maximum(np.abs(view[:, 2]), np.float32(1e-3))
    return Footprint(along_m=along, across_m=across, view=view[:, :2] / flat[:, None])
