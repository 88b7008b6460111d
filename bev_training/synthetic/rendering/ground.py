"""What the ground is made of and which colour it has, at any place."""

from __future__ import annotations

import cv2
import numpy as np
import shapely
from shapely import MultiPolygon, Polygon

from bev_perception.shapes import AnyArray
from bev_training.synthetic.categories import SEMANTIC_ID
from bev_training.synthetic.rendering import texture
from bev_training.synthetic.rendering.color import linear
from bev_training.synthetic.rendering.paint import CELL_M, FINE, Footprint, Paint, raster
from bev_training.synthetic.town.town import Town
from bev_training.synthetic.world import Palette

_GRAIN_M, _LUMPS_M, _CLOUDS_M = 0.011, 0.083, 1.37  # sizes of texels
_KERB_M = 0.15
_TYRES_M = 0.8  # from a lane's middle
_RAMP_M = 2 * CELL_M  # over which the areas' rasters rise from 0 to 1


class Ground:
    """Paint and surface of a town's ground."""

    def __init__(self, town: Town, palette: Palette) -> None:
        self._paint = Paint(town.markings, town.size_m)
        drivable, walkway = town.drivable_area, town.walkway
        parking = shapely.union_all([*town.carparks, *_roadside(town)])
        crossing = shapely.union_all(town.crossings)
        self._areas = np.stack(
            [_softened(area, town.size_m) for area in (drivable, walkway, parking, crossing)], -1
        )
        self._tracks = _tracks(town)
        self._texture = texture.tile(np.random.default_rng([town.seed, 71]))
        self._roughness = np.float32(palette.roughness)
        names = ('asphalt', 'sidewalk', 'parking', 'grass', 'soil')
        self._asphalt, self._sidewalk, self._parking, self._grass, self._soil = (
            linear(np.array(getattr(palette, name))) for name in names
        )

    def semantics(self, xy: AnyArray) -> AnyArray:
        """Return (N,) positions in `categories.SEMANTICS` of places (N, 2) in the map."""
        return self.seen(xy, _point(len(xy)))[0]

    def albedo(self, xy: AnyArray, footprint: Footprint) -> AnyArray:
        """Return the linear albedo (N, 3) of places (N, 2), filtered over pixels."""
        return self.seen(xy, footprint)[1]

    def seen(self, xy: AnyArray, footprint: Footprint) -> tuple[AnyArray, AnyArray]:
        """Return semantics (N,) and albedo (N, 3) of places (N, 2) in the map."""
        x, y = np.ascontiguousarray(np.asarray(xy, np.float32).T)
        areas = texture.sample(self._areas, x * (1 / CELL_M), y * (1 / CELL_M)).T
        at, cover, color, marking = self._paint.near(x, y, footprint)
        semantics = self._semantics(areas, at, marking)
        albedo = self._surface(x, y, areas, footprint)
        self._painted(albedo, x, y, footprint, at, cover, color)
        return semantics, albedo

    def _semantics(self, areas: AnyArray, at: AnyArray, marking: AnyArray) -> AnyArray:
        drivable, walkway, parking, crossing = areas > 127
        semantics = np.full(areas.shape[1], SEMANTIC_ID['terrain'], np.uint8)
        semantics[walkway] = SEMANTIC_ID['sidewalk']
        semantics[drivable] = SEMANTIC_ID['road']
        semantics[parking] = SEMANTIC_ID['parking']
        semantics[crossing] = SEMANTIC_ID['crosswalk']
        painted = marking >= 0
        which, names = at[painted], self._paint.is_line[marking[painted]]
        semantics[which] = np.where(names, SEMANTIC_ID['lane_marking'], SEMANTIC_ID['crosswalk'])
        return semantics

    def _surface(
        self, x: AnyArray, y: AnyArray, areas: AnyArray, footprint: Footprint
    ) -> AnyArray:
        """Return the albedo (N, 3) without paint."""
        size = np.sqrt(footprint.along_m * footprint.across_m) + np.float32(1e-3)
        clouds = _noise(self._texture, x, y, _CLOUDS_M)
        lumps = _noise(self._texture, x, y, _LUMPS_M)
        grain = _noise(self._texture, x, y, _GRAIN_M)
        far = footprint.along_m
        lumps *= np.minimum(1, 8 * _LUMPS_M / (far + 0.01))[:, None]
        grain *= np.minimum(1, 2 * _GRAIN_M / (far + 0.001))[:, None]

        reach = (areas.astype(np.float32) * (1 / 255) - 0.5) * _RAMP_M  # metres inside
        drivable, walkway, parking, _ = np.clip(reach / size + 0.5, 0, 1)
        rough = self._roughness
        # grass, with worn soil
        bare = np.clip(0.35 + 1.6 * clouds[:, 1] + 1.2 * lumps[:, 2], 0, 1)[:, None]
        result = self._grass + bare * (self._soil - self._grass)
        result *= (1 + 0.9 * grain[:, 1] + 0.6 * lumps[:, 1] + 0.3 * clouds[:, 2])[:, None]
        # concrete: cleaner than asphalt, its kerb lighter
        stone = 1 + rough * (0.2 * grain[:, 0] + 0.12 * lumps[:, 2] + 0.12 * clouds[:, 0])
        kerb = np.clip((reach[0] + np.float32(_KERB_M)) / size + 0.5, 0, 1)
        stone *= 1 + 0.3 * kerb
        _blend(result, self._sidewalk * stone[:, None], walkway)
        tar = 1 + rough * (
            0.45 * grain[:, 0] + 0.16 * lumps[:, 1] + 0.2 * clouds[:, 2] + 0.12 * clouds[:, 1]
        )
        cracks = lumps[:, 3] * (clouds[:, 0] > 0.1)
        tar -= rough * 0.55 * cracks
        scale = np.float32(0.5 / CELL_M)
        tar *= 1 - rough * np.float32(0.16 / 255) * texture.sample(
            self._tracks, x * scale - np.float32(0.5), y * scale - np.float32(0.5)
        )
        tar = tar[:, None]
        road = self._asphalt * tar
        _blend(road, self._parking * tar, parking)
        _blend(result, road, drivable)
        return np.clip(result, 0.005, 1)

    def _painted(
        self, albedo: AnyArray, x: AnyArray, y: AnyArray, footprint: Footprint,
        at: AnyArray, cover: AnyArray, color: AnyArray,
    ) -> None:  # fmt: skip
        """Lay paint over the albedo."""
        far = np.clip((footprint.along_m - 0.7) * 1.25, 0, 1)
        worn = 0.9 - 0.12 * self._roughness
        _blend_at(albedo, at, color, cover * (1 - far[at]) * worn)
        distant = np.flatnonzero(far > 0)
        pixel = Footprint(
            along_m=footprint.along_m[distant], across_m=footprint.across_m[distant],
            view=footprint.view[distant],
        )  # fmt: skip
        over = self._paint.far(x[distant], y[distant], pixel)
        over *= worn * far[distant, None]
        albedo[distant] = albedo[distant] * (1 - over[:, 3:]) + over[:, :3]


def _blend(under: AnyArray, over: AnyArray, share: AnyArray) -> None:
    over -= under
    over *= share[:, None]
    under += over


def _blend_at(under: AnyArray, at: AnyArray, color: AnyArray, share: AnyArray) -> None:
    was = under[at]
    under[at] = was + (color - was) * share[:, None]


def _noise(image: AnyArray, x: AnyArray, y: AnyArray, texel_m: float) -> AnyArray:
    """Return (N, 4) float32: three noises about -1..1 and cracks 0..1."""
    values = texture.sample(image, x * (1 / texel_m), y * (1 / texel_m), wrap=True)
    result = values.astype(np.float32)
    result -= np.array([128, 128, 128, 0], np.float32)
    result *= np.array([1 / 128, 1 / 128, 1 / 128, 1 / 255], np.float32)
    return result


def _point(count: int) -> Footprint:
    view = np.zeros((count, 2), np.float32)
    view[:, 0] = 1
    tiny = np.full(count, 1e-3, np.float32)
    return Footprint(along_m=tiny, across_m=tiny, view=view)


def _softened(area: Polygon | MultiPolygon, size_m: tuple[float, float]) -> AnyArray:
    """Return (h, w) uint8 at nodes CELL_M apart: a ramp of two cells, so that bilinear lookups
    find straight edges exactly.
    """
    smaller = area.buffer(-CELL_M / FINE / 2, join_style='mitre')
    cells = np.pad(raster([(smaller, 255)], size_m, 1)[..., 0], 1)
    sums = cells[1:].astype(np.uint16) + cells[:-1]
    return ((sums[:, 1:] + sums[:, :-1] + 2) // 4).astype(np.uint8)


def _tracks(town: Town) -> AnyArray:
    """Return (h, w) uint8 with cells of 2 CELL_M: where tyres darken the lanes."""
    columns, rows = (int(np.ceil(extent / CELL_M / 2)) * 2 for extent in town.size_m)
    image = np.zeros((rows, columns), np.uint8)
    for lane in town.lanes:
        ahead = np.gradient(lane.line, axis=0)
        ahead /= np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-9)
        left = np.stack([-ahead[:, 1], ahead[:, 0]], -1)
        for side in (-_TYRES_M, _TYRES_M):
            line = np.round(((lane.line + side * left) / CELL_M - 0.5) * 16).astype(np.int32)
            cv2.polylines(image, [line], False, 255, thickness=2, shift=4)
    image = cv2.GaussianBlur(image, None, 1.0)
    half = (columns // 2, rows // 2)
    return np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_AREA))


def _roadside(town: Town) -> list[Polygon]:
    """Return the parking lanes along roads."""
    result = []
    for number, road in enumerate(town.roads):
        widths = [lane.width_m for lane in town.lanes if lane.road == number]
        if not widths or len(road.line) < 2:
            continue
        ahead = np.gradient(road.line, axis=0)
        ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
        left = np.stack([-ahead[:, 1], ahead[:, 0]], -1)
        for side, has, half in zip((1, -1), road.parking, road.half_width_m, strict=True):
            if has:
                inner = road.line + side * left * widths[0] * road.lanes_each_way
                outer = road.line + side * left * half
                result.append(Polygon(np.concatenate([inner, outer[::-1]])).buffer(0))
    return result
