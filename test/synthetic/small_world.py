"""A town of one street and a few boxes, made by hand in a moment: for tests."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from shapely import LineString, MultiPolygon, Polygon, box

from bev_training.synthetic.categories import MATERIAL_ID
from bev_training.synthetic.conditions import Conditions, draw_conditions
from bev_training.synthetic.objects.mesh import Mesh
from bev_training.synthetic.objects.motion import Motion, drive_along
from bev_training.synthetic.town.terrain import Terrain
from bev_training.synthetic.town.town import Lane, Marking, Road, Town
from bev_training.synthetic.world import Actor, Palette, World

SECONDS = 4.0
STREET_Y = 100.0
HALF_STREET_M = 7.0
START = np.array([60.0, 96.0])  # of base at time 0
EGO_LINE = np.array([[30.0, 94.0], [210.0, 106.0]])


def box_mesh(length: float, width: float, height: float, material: str = 'paint') -> Mesh:
    """A closed box that stands on z = 0."""
    x, y = length / 2, width / 2
    corners = [
        (sx * x, sy * y, z) for z in (0, height) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]
    quads = [(3, 2, 1, 0), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)]
    faces = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    return Mesh(
        vertices=np.array(corners, np.float32),
        triangles=np.array(faces, np.int32),
        colors=np.full((12, 3), 0.7, np.float32),
        materials=np.full(12, MATERIAL_ID[material], np.uint8),
    )


def standing(
    category: str, mesh: Mesh, xy: npt.ArrayLike, yaw: float = 0.0, *, parked: bool = False
) -> Actor:
    """An actor at a place of the small town."""
    upright = category in ('building', 'vegetation', 'pole')
    pose = small_town().terrain.pose(xy, yaw, upright=upright)
    return Actor(category=category, mesh=mesh, map_T_actor=pose, parked=parked)


def moving(category: str, mesh: Mesh, motion: Motion) -> Actor:
    """An actor that moves."""
    return Actor(category=category, mesh=mesh, map_T_actor=np.eye(4), motion=motion)


@lru_cache(maxsize=1)
def small_town() -> Town:
    """A street along x with a roundabout at its end, whose island is a hole; gentle slopes."""
    street = box(20, STREET_Y - HALF_STREET_M, 160, STREET_Y + HALF_STREET_M)
    circle = Polygon(_circle((175, STREET_Y), 24)) - Polygon(_circle((175, STREET_Y), 9))
    drivable = street | circle
    park = Polygon([(80, 112), (110, 108.5), (112, 128), (82, 130)])
    around = (street | circle).buffer(2.5, join_style='mitre')
    walkway = around - drivable - park - Polygon(_circle((175, STREET_Y), 9))
    middle = np.array([[20, STREET_Y], [100, STREET_Y], [130, STREET_Y + 2], [158, STREET_Y]])
    lane = LineString([(20, STREET_Y - 3.5), (150, STREET_Y - 3.5)])
    return Town(
        seed=0,
        size_m=(240.0, 200.0),
        terrain=Terrain(waves=np.array([[0.8, 0.02, 0.03, 0.4], [0.5, -0.035, 0.01, 1.0]])),
        nodes=np.array([[175.0, STREET_Y]]),
        roads=(
            Road(
                line=np.stack([np.arange(20.0, 151), np.full(131, STREET_Y)], -1),
                ends=(0, 0),
                lanes_each_way=1,
                parking=(False, True),
                half_width_m=(HALF_STREET_M, HALF_STREET_M),
            ),
        ),
        lanes=(
            Lane(
                line=np.stack([np.arange(20, 150.5, 0.5), np.full(261, STREET_Y - 1.75)], -1),
                width_m=3.5,
                road=0,
                node=-1,
                successors=(),
            ),
        ),
        drivable_area=drivable if isinstance(drivable, MultiPolygon) else MultiPolygon([drivable]),
        walkway=walkway if isinstance(walkway, MultiPolygon) else MultiPolygon([walkway]),
        intersections=(circle,),
        road_areas=(street - circle,),
        crossings=(box(70, 93, 74, 107), box(73, 92, 75, 100)),  # overlapping on purpose
        carparks=(park,),
        stop_lines=(box(149, 93, 149.5, 100),),
        road_dividers=(middle,),
        lane_dividers=(np.asarray(lane.coords), _circle((175.0, STREET_Y), 16)),
        markings=(
            Marking(
                polygon=np.array([(70, 97), (74, 97), (74, 97.6), (70, 97.6)]),
                color=(0.9, 0.9, 0.9),
                kind='crosswalk',
            ),
        ),
        bays=np.zeros((0, 4)),
        land=MultiPolygon([box(20, 140, 160, 180)]),
        footpaths=(np.array([[20.0, 108.0], [150, 108.0]]),),
    )


def _circle(middle: tuple[float, float], radius_m: float) -> np.ndarray:
    angle = np.append(np.arange(0, 2 * np.pi, np.pi / 40), 0)
    return np.stack([np.cos(angle), np.sin(angle)], -1) * radius_m + middle


def some_actors() -> tuple[Actor, ...]:
    """Boxes of several kinds around the way of the vehicle."""
    return (
        standing('building', box_mesh(30, 10, 12, 'wall'), (70, 118), 0.1),
        standing('car', box_mesh(4.4, 1.8, 1.5), (75, 95), 0.2, parked=True),
        standing('bus', box_mesh(11, 2.5, 3.1), (45, 103), 3.0),
        standing('pedestrian', box_mesh(0.5, 0.6, 1.75, 'cloth'), (66, 106), -1.0),
        standing('vegetation', box_mesh(2, 2, 5, 'foliage'), (84, 90)),
        moving('car', box_mesh(4.2, 1.7, 1.4), drive_along(EGO_LINE + (0, 5), 6.0, SECONDS, 60.0)),
        standing('traffic_cone', box_mesh(0.4, 0.4, 0.7), (72, 101)),
    )


def small_world(
    actors: tuple[Actor, ...] = (), *, conditions: Conditions | None = None, speed_mps: float = 5.0
) -> World:
    """The small town with some actors; the vehicle sways, and drives a little askew."""
    sway = np.array([[(0.02, 2.7, 0.3), (0.005, 7, 1)], [(0.015, 2.1, 2), (0.005, 5, 0)]])
    return World(
        seed=1,
        seconds=SECONDS,
        town=small_town(),
        palette=Palette(
            asphalt=(0.3, 0.3, 0.3),
            sidewalk=(0.5, 0.5, 0.5),
            parking=(0.4, 0.4, 0.4),
            grass=(0.3, 0.4, 0.2),
            soil=(0.4, 0.35, 0.3),
            roughness=1.0,
        ),
        conditions=conditions or draw_conditions(np.random.default_rng(0), 'clear'),
        actors=actors,
        ego=drive_along(EGO_LINE, speed_mps, SECONDS, float(START[0] - 30)),
        sway=sway,
    )
