"""Sensors agree with each other and with the geometry that the vehicle uses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from shapely import MultiPolygon, box

from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_perception.preprocess import to_pinhole
from bev_perception.views import CameraView
from bev_training.synthetic.categories import SEMANTIC_ID
from bev_training.synthetic.lidar import sweep
from bev_training.synthetic.objects.motion import drive_along
from bev_training.synthetic.rendering.renderer import Renderer
from bev_training.synthetic.rendering.scene import Scene
from bev_training.synthetic.rig import looking, nuscenes_rig
from bev_training.synthetic.town.terrain import Terrain
from bev_training.synthetic.town.town import Marking
from test.synthetic.reuse import quick, renderer_of, scene_of, world_of
from test.synthetic.small_world import small_world


def test_lidar_points_lie_where_the_depth_images_say() -> None:
    """In a real town, with the lidar's noise, over all cameras."""
    world = world_of(quick())
    scene = scene_of(world)
    renderer, rig, time_s = renderer_of(scene), nuscenes_rig((400, 224)), 0.05
    map_T_base = world.map_T_base(time_s)
    points = sweep(scene.at(time_s), rig.lidar, map_T_base, seed=(1,))
    xyz = np.stack([points[axis] for axis in 'xyz'], -1).astype(float)
    errors = []
    for c in rig.cameras:
        view = renderer.view(c.camera, map_T_base @ c.base_T_cam, time_s)
        cam_T_lidar = rigid.inverse(c.base_T_cam) @ rig.lidar.base_T_lidar
        in_cam = rigid.transform_points(cam_T_lidar, xyz)
        uv, seen = c.camera.project(in_cam)
        column, row = np.rint(uv[seen]).astype(int).T
        errors.append(view.depth_m[row, column] - in_cam[seen, 2])
    every = np.abs(np.concatenate(errors))
    assert len(every) > 10_000
    assert np.median(every) < 0.03
    # The rest is seen past an edge by one of the two, or on ground at a grazing angle.
    assert (every < 0.3).mean() > 0.9


LENSES = [
    Camera(
        K=np.array([[260.0, 0, 319.5], [0, 260, 199.5], [0, 0, 1]]), size_px=(640, 400),
        model='plumb_bob', D=(-0.28, 0.07, 0.001, -0.001, -0.006),
    ),
    Camera(
        K=np.array([[250.0, 0, 319.5], [0, 250, 199.5], [0, 0, 1]]), size_px=(640, 400),
        model='rational_polynomial', D=(0.9, 0.2, 0.0005, 0.0, 0.003, 1.25, 0.42, 0.02),
    ),
    Camera(
        K=np.array([[230.0, 0, 319.5], [0, 230, 199.5], [0, 0, 1]]), size_px=(640, 400),
        model='equidistant', D=(0.02, -0.006, 0.001, 0.0),
    ),
]  # fmt: skip


def straightness_px(mask: np.ndarray) -> float:
    """Largest distance of the stripe's middle, row by row, from the straight line through it."""
    whole = (mask[:, :2] == 0).all(1) & (mask[:, -2:] == 0).all(1)  # not cut by the image's edge
    rows = np.flatnonzero(((mask > 0).sum(1) >= 3) & whole)
    middle = [
        np.average(np.arange(mask.shape[1]), weights=mask[row].astype(float)) for row in rows
    ]
    line = np.polyfit(rows, middle, 1)
    assert len(rows) > 60
    return float(np.abs(np.polyval(line, rows) - middle).max())


@pytest.mark.parametrize('camera', LENSES, ids=lambda c: c.model)
def test_a_distorted_image_undistorts_to_straight_lane_lines(camera: Camera) -> None:
    """Rendered through the lens, undistorted by the code that the node uses."""
    world = small_world()
    y = 96.0
    stripe = np.array([(22, y - 0.1), (158, y - 0.1), (158, y + 0.1), (22, y + 0.1)])
    town = replace(
        world.town, terrain=Terrain(waves=np.zeros((1, 4))), crossings=(), stop_lines=(),
        markings=(Marking(polygon=stripe, color=(0.9, 0.9, 0.9), kind='line'),),
        drivable_area=MultiPolygon([box(20, 80, 160, 120)]),
    )  # fmt: skip
    ego = drive_along([(30.0, y - 2.2), (150.0, y - 2.2)], 0.0, 4.0, 5.0)
    flat = replace(world, town=town, ego=ego, sway=np.zeros((2, 2, 3)))
    pose = flat.map_T_base(0.0) @ looking(0.0, 0.35, (1.0, 0.0, 1.6))
    view = Renderer(Scene(flat)).view(camera, pose, 0.0)
    mask = np.where(view.semantics == SEMANTIC_ID['lane_marking'], 255, 0).astype(np.uint8)
    seen = CameraView(
        name='front', image=np.repeat(mask[..., None], 3, -1), camera=camera,
        ego_T_cam=np.eye(4), stamp_ns=1,
    )  # fmt: skip
    undistorted, _, _ = to_pinhole(seen, camera.size_px)
    assert straightness_px(undistorted[..., 0]) < 1.0
    assert straightness_px(mask) > 4.0  # the lens bends it
