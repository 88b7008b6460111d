from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from shapely import MultiPolygon, box

from bev_perception.geometry import rigid
from bev_perception.geometry.camera import Camera
from bev_training.synthetic.categories import MATERIAL_ID, SEMANTIC_ID, UNSEEN
from bev_training.synthetic.conditions import draw_conditions
from bev_training.synthetic.objects.mesh import Mesh
from bev_training.synthetic.objects.motion import drive_along
from bev_training.synthetic.rendering.renderer import Renderer
from bev_training.synthetic.rendering.scene import GROUND, NOTHING, Scene
from bev_training.synthetic.town.terrain import make_terrain
from bev_training.synthetic.town.town import Marking, Town
from bev_training.synthetic.world import Actor, Palette, World

SIZE_M = (120.0, 100.0)
QUAD = np.array([(64.3, 49.2), (67.1, 49.4), (67.0, 50.6), (64.2, 50.4)])
CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (0, 1)], float)
FACES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
PINHOLE = Camera(K=np.array([[160.0, 0, 99.5], [0, 160, 55.5], [0, 0, 1]]), size_px=(200, 112))


def solid(length, width, height, color=(0.7, 0.2, 0.2), material='paint'):
    triangles = [t for a, b, c, d in FACES for t in ((a, b, c), (a, c, d))]
    return Mesh(
        vertices=(CORNERS * (length / 2, width / 2, height)).astype(np.float32),
        triangles=np.array(triangles, np.int32),
        colors=np.tile(np.float32(color), (12, 1)),
        materials=np.full(12, MATERIAL_ID[material], np.uint8),
    )


def make_world(weather='clear', seed=3):
    terrain = make_terrain(np.random.default_rng(1), 0.04)
    markings = (
        Marking(polygon=QUAD, color=(0.9, 0.9, 0.9), kind='line'),
        Marking(polygon=QUAD[::-1] + (4, 2), color=(0.9, 0.9, 0.9), kind='crosswalk'),
    )
    town = Town(
        seed=5, size_m=SIZE_M, terrain=terrain, nodes=np.zeros((0, 2)), roads=(), lanes=(),
        drivable_area=MultiPolygon([box(20, 45, 100, 55)]),
        walkway=MultiPolygon([box(20, 55, 100, 58.5), box(20, 42, 100, 45)]),
        intersections=(), road_areas=(), crossings=(box(72, 45, 75, 55),),
        carparks=(box(30, 30, 50, 42),), stop_lines=(), road_dividers=(), lane_dividers=(),
        markings=markings, bays=np.zeros((0, 4)), land=MultiPolygon(), footpaths=(),
    )  # fmt: skip
    ego = drive_along(np.array([(55.0, 48), (100.0, 48)]), 2.0, 4.0, 3.0)
    mover = drive_along(np.array([(62.0, 53), (100.0, 53)]), 3.0, 4.0, 4.0)
    standing = [
        ('building', solid(12, 8, 6, material='wall'), (75.0, 65.0, 0.3)),
        ('car', solid(4.4, 1.8, 1.5), (69.0, 46.5, 0.1)),
        ('pedestrian', solid(0.5, 0.6, 1.8, material='cloth'), (63.0, 56.0, 1.0)),
    ]
    actors = [
        Actor(category=c, mesh=m, map_T_actor=terrain.pose((x, y), yaw))
        for c, m, (x, y, yaw) in standing
    ]
    actors.append(
        Actor(category='truck', mesh=solid(6, 2.4, 3), map_T_actor=np.eye(4), motion=mover)
    )
    palette = Palette(
        asphalt=(0.35, 0.35, 0.36), sidewalk=(0.6, 0.6, 0.58), parking=(0.4, 0.4, 0.4),
        grass=(0.3, 0.42, 0.2), soil=(0.42, 0.35, 0.25), roughness=1.0,
    )  # fmt: skip
    return World(
        seed=seed, seconds=4.0, town=town, palette=palette,
        conditions=draw_conditions(np.random.default_rng(0), weather), actors=tuple(actors),
        ego=ego, sway=np.zeros((2, 2, 3)),
    )  # fmt: skip


def map_T_cam(world, x=58.0, y=48.0, yaw=0.0, height=1.6, down=0.12):
    map_T_base = world.town.terrain.pose((x, y), yaw)
    base_T_cam = np.eye(4)
    base_T_cam[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    base_T_cam[:3, 3] = (0, 0, height)
    tilt = np.eye(4)
    c, s = np.cos(down), np.sin(down)
    tilt[1:3, 1:3] = [[c, s], [-s, c]]
    return map_T_base @ base_T_cam @ tilt


@pytest.fixture(scope='module')
def world():
    return make_world()


@pytest.fixture(scope='module')
def scene(world):
    return Scene(world)


@pytest.fixture(scope='module')
def renderer(scene):
    return Renderer(scene)


def random_rays(world, n, seed=0):
    rng = np.random.default_rng(seed)
    start = np.column_stack([rng.uniform(50, 90, n), rng.uniform(44, 60, n), np.zeros(n)])
    start[:, 2] = world.town.terrain.height_m(start[:, :2]) + rng.uniform(7, 12, n)
    ahead = rng.normal(size=(n, 3)) - (0, 0, 0.6)
    return start, ahead / np.linalg.norm(ahead, axis=1, keepdims=True)


def brute_force(world, time_s, start, ahead):
    """Nearest hit of every actor's triangles, by Moeller and Trumbore's equations."""
    best = np.full(len(start), np.inf)
    actor = np.full(len(start), NOTHING)
    normal = np.zeros((len(start), 3))
    for number, (a, pose) in enumerate(zip(world.actors, world.poses(time_s), strict=True)):
        points = a.mesh.vertices.astype(float) @ pose[:3, :3].T + pose[:3, 3]
        for p, q, r in points[a.mesh.triangles]:
            e1, e2 = q - p, r - p
            h = np.cross(ahead, e2)
            det = h @ e1
            det = np.where(np.abs(det) < 1e-12, 1e-12, det)
            s = start - p
            u = (s * h).sum(1) / det
            across = np.cross(s, e1)
            v = (ahead * across).sum(1) / det
            t = across @ e2 / det
            hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (t < best)
            best[hit], actor[hit] = t[hit], number
            n = np.cross(e1, e2) / np.linalg.norm(np.cross(e1, e2))
            normal[hit] = n * -np.sign(ahead[hit] @ n)[:, None]
    return best, actor, normal


def test_rays_hit_what_brute_force_finds(world, scene):
    start, ahead = random_rays(world, 4000)
    hits = scene.at(1.0).cast(start, ahead)
    distance, actor, normal = brute_force(world, 1.0, start, ahead)
    on_actor = hits.actor >= 0
    assert on_actor.sum() > 200
    assert len(set(hits.actor[on_actor])) == len(world.actors)
    # edges apart: a ray may pass one by a rounding error
    assert (hits.actor[on_actor] == actor[on_actor]).mean() > 0.998
    same = on_actor & (hits.actor == actor)
    np.testing.assert_allclose(hits.distance_m[same], distance[same], atol=2e-3)
    assert ((hits.normal[same] * normal[same]).sum(1) > 0.999).mean() > 0.998
    np.testing.assert_allclose(np.linalg.norm(hits.normal[same], axis=1), 1, atol=1e-4)
    # what brute force finds is hit, unless the ground is nearer
    assert (distance[hits.actor == GROUND] > hits.distance_m[hits.actor == GROUND] - 1e-2).all()
    sky = hits.actor == NOTHING
    assert sky.any() and np.isinf(hits.distance_m[sky]).all() and np.isinf(distance[sky]).all()


def test_rays_meet_the_ground_at_the_terrains_height(world, scene):
    start, ahead = random_rays(world, 4000, seed=1)
    hits = scene.at(0.0).cast(start, ahead)
    at = start + ahead * np.where(np.isfinite(hits.distance_m), hits.distance_m, 0)[:, None]
    inside = (hits.actor == GROUND) & (at[:, :2] > 0).all(1) & (at[:, :2] < SIZE_M).all(1)
    assert inside.sum() > 1000
    assert np.abs(at[inside, 2] - world.town.terrain.height_m(at[inside, :2])).max() < 0.02
    assert (hits.normal[inside, 2] > 0.99).all()
    assert (hits.material[inside] == MATERIAL_ID['ground']).all()


def test_blocked_agrees_with_cast(world, scene):
    start, ahead = random_rays(world, 3000, seed=2)
    instant = scene.at(2.0)
    distance = instant.cast(start, ahead).distance_m
    limit = np.random.default_rng(3).uniform(2, 40, len(start))
    clear_cut = np.abs(distance - limit) > 1e-3
    blocked = instant.blocked(start, ahead, limit)
    assert (blocked == (distance < limit))[clear_cut].all()
    assert 0.1 < blocked.mean() < 0.9
    assert (instant.blocked(start, ahead, 10.0) == (distance < 10))[
        np.abs(distance - 10) > 1e-3
    ].all()


@pytest.mark.parametrize('time_s', [0.0, 1.5, 4.0])
def test_movers_are_where_the_world_says(world, scene, time_s):
    (mover,) = world.movers
    pose = world.poses(time_s)[mover]
    local = np.array([(-2.9, 0, 1), (2.9, 0, 1), (0, 1.1, 1), (0, 0, 1.0)])
    start = rigid.transform_points(pose, local + (0, 0, 9))
    down = -np.repeat(pose[None, :3, 2], 4, 0)
    hits = scene.at(time_s).cast(start, down)
    assert (hits.actor == mover).all()
    np.testing.assert_allclose(hits.distance_m, 7, atol=1e-3)
    beside = rigid.transform_points(pose, np.array([(-3.1, 0, 10.0), (3.1, 0, 10), (0, 1.3, 10)]))
    assert (scene.at(time_s).cast(beside, down[:3]).actor != mover).all()


def test_silhouettes_are_the_hulls_of_projected_corners(world, renderer):
    pose = map_T_cam(world)
    view = renderer.view(PINHOLE, pose, 0.0)
    car = 1
    corners = rigid.transform_points(
        rigid.inverse(pose) @ world.poses(0.0)[car],
        world.actors[car].mesh.vertices.astype(float),
    )
    uv, seen = PINHOLE.project(corners)
    assert seen.all()
    hull = cv2.convexHull(uv.astype(np.float32))
    v, u = np.mgrid[: view.actors.shape[0], : view.actors.shape[1]]
    inside = np.array(
        [
            cv2.pointPolygonTest(hull, (float(a), float(b)), True)
            for a, b in zip(u.flat, v.flat, strict=True)
        ]
    ).reshape(u.shape)
    assert (view.actors == car).sum() > 100
    assert (view.actors[inside > 1] == car).all()
    assert (view.actors[inside < -1] != car).all()
    assert (view.semantics[view.actors == car] == SEMANTIC_ID['car']).all()


def test_depth_leads_back_to_the_surface(world, renderer):
    pose = map_T_cam(world, yaw=0.1)
    view = renderer.view(PINHOLE, pose, 1.0)
    v, u = np.nonzero(view.depth_m)
    rays = PINHOLE.unproject(np.stack([u, v], -1))
    depth = view.depth_m[v, u].astype(float)
    points = rigid.transform_points(pose, rays * (depth / rays[:, 2])[:, None])
    actor = view.actors[v, u]
    town = (actor == GROUND) & (depth < 35)
    off = points[town, 2] - world.town.terrain.height_m(points[town, :2])
    assert town.sum() > 3000 and np.abs(off).max() < 0.02
    for number in (1, 3):
        local = rigid.transform_points(
            rigid.inverse(world.poses(1.0)[number]), points[actor == number]
        )
        length, width, height = world.actors[number].mesh.size_m
        faces = np.abs(np.abs(local) - (length / 2, width / 2, height)).min(1)
        assert len(local) > 50 and faces.max() < 5e-3
    assert (view.depth_m[view.actors == NOTHING] == 0).all()
    assert (view.semantics[view.actors == NOTHING] == SEMANTIC_ID['sky']).all()


def test_paint_lies_where_the_camera_projects_it(world, renderer):
    pose = map_T_cam(world, y=50.0, down=0.2)
    view = renderer.view(PINHOLE, pose, 0.0)
    corners = np.column_stack([QUAD, world.town.terrain.height_m(QUAD)])
    uv, seen = PINHOLE.project(rigid.transform_points(rigid.inverse(pose), corners))
    assert seen.all()
    painted = view.semantics == SEMANTIC_ID['lane_marking']
    quad = uv.astype(np.float32)
    v, u = np.mgrid[: painted.shape[0], : painted.shape[1]]
    inside = np.array(
        [
            cv2.pointPolygonTest(quad, (float(a), float(b)), True)
            for a, b in zip(u.flat, v.flat, strict=True)
        ]
    ).reshape(u.shape)
    assert painted.sum() > 100
    assert painted[inside > 0.5].all()
    assert not painted[inside < -0.5].any()
    # and it is bright in the image
    bright = view.image.mean(-1)
    assert bright[inside > 1.5].mean() > bright[(inside < -2) & (inside > -5)].mean() + 40


def test_areas_end_where_their_outlines_are(renderer):
    ground = renderer.ground
    names = [
        ((60, 44.98), 'sidewalk'), ((60, 45.02), 'road'), ((60, 41.98), 'terrain'),
        ((60, 42.02), 'sidewalk'), ((71.98, 46), 'road'), ((72.02, 46), 'crosswalk'),
        ((49.97, 35), 'parking'), ((50.03, 35), 'terrain'), ((60, 54.98), 'road'),
        ((60, 55.02), 'sidewalk'), ((-5, 50), 'terrain'), ((500, 50), 'terrain'),
    ]  # fmt: skip
    found = ground.semantics(np.array([xy for xy, _ in names]))
    assert found.tolist() == [SEMANTIC_ID[name] for _, name in names]


LENSES = {
    'plumb_bob': ((-0.28, 0.07, 0.001, -0.0008, 0.0), 160.0),
    'rational_polynomial': ((0.3, 0.05, 0.0, 0.0, 0.004, 0.6, 0.1, 0.01), 160.0),
    'equidistant': ((0.02, -0.004, 0.0, 0.0), 95.0),
}


@pytest.mark.parametrize('model', LENSES)
def test_lenses_see_the_same_along_the_same_rays(world, renderer, model):
    D, f = LENSES[model]
    K = np.array([[f, 0, 99.5], [0, f, 55.5], [0, 0, 1]])
    lens = Camera(K=K, size_px=(200, 112), model=model, D=D)
    pose = map_T_cam(world)
    view = renderer.view(lens, pose, 0.0)
    straight = renderer.view(PINHOLE, pose, 0.0)
    v, u = np.mgrid[:112, :200]
    uv, seen = PINHOLE.project(lens.unproject(np.stack([u, v], -1)))
    back, has_ray = lens.project(lens.unproject(np.stack([u, v], -1)))
    seen &= has_ray & (np.abs(back - np.stack([u, v], -1)).max(-1) < 0.05)
    assert seen.mean() > 0.25
    at = np.round(uv[seen]).astype(int)
    # compare inside areas, where half a pixel does not matter
    same = cv2.erode(straight.semantics, np.ones((3, 3))) == cv2.dilate(
        straight.semantics, np.ones((3, 3))
    )
    inner = same[at[:, 1], at[:, 0]]
    wanted = straight.semantics[at[:, 1], at[:, 0]]
    assert inner.sum() > 3000
    assert (view.semantics[seen] == wanted)[inner].all()


def test_pixels_without_a_ray_are_black(world, renderer):
    K = np.array([[40.0, 0, 99.5], [0, 40.0, 99.5], [0, 0, 1]])
    # its angle ends at 1.1 rad, inside the image
    lens = Camera(K=K, size_px=(200, 200), model='equidistant', D=(0.0, -0.15, 0.0, 0.0))
    view = renderer.view(lens, map_T_cam(world), 0.0)
    v, u = np.mgrid[:200, :200]
    outside = np.hypot(u - 99.5, v - 99.5) > 80
    assert (view.image[outside] == 0).all() and (view.depth_m[outside] == 0).all()
    assert (view.actors[outside] == NOTHING).all()
    assert (view.semantics[outside] == UNSEEN).all()
    assert view.image[100, 100].sum() > 0


def test_depth_ends_at_the_image_plane(world, renderer):
    """A lens of more than 180 degrees sees what lies behind its image plane: no depth there."""
    K = np.array([[55.0, 0, 99.5], [0, 55.0, 99.5], [0, 0, 1]])
    lens = Camera(K=K, size_px=(200, 200), model='equidistant', D=(0.0, 0.0, 0.0, 0.0))
    view = renderer.view(lens, map_T_cam(world), 0.0)
    v, u = np.mgrid[:200, :200]
    behind = lens.unproject(np.stack([u, v], -1).astype(float))[..., 2] < 0
    assert (behind & (view.actors != NOTHING)).sum() > 100
    assert (view.depth_m[behind] == 0).all() and (view.depth_m >= 0).all()


def test_views_do_not_depend_on_what_was_rendered_before(world, renderer):
    pose = map_T_cam(world)
    first = renderer.view(PINHOLE, pose, 0.5, noise_seed=(1, 2))
    for time_s in (0.0, 1.0, 2.0, 3.0, 4.0):
        renderer.view(PINHOLE, map_T_cam(world, x=90.0, yaw=2.0), time_s)
    again = renderer.view(PINHOLE, pose, 0.5, noise_seed=(1, 2))
    fresh = Renderer(Scene(make_world())).view(PINHOLE, pose, 0.5, noise_seed=(1, 2))
    for other in (again, fresh):
        for name in ('image', 'semantics', 'depth_m', 'actors'):
            assert getattr(first, name).tobytes() == getattr(other, name).tobytes(), name


def test_noise_changes_only_noise(world, renderer):
    pose = map_T_cam(world)
    one, other = (renderer.view(PINHOLE, pose, 0.5, noise_seed=(s,)) for s in (1, 2))
    difference = one.image.astype(int) - other.image
    assert 0.5 < difference.std() < 3 * world.conditions.noise
    assert abs(difference.mean()) < 0.2
    assert (one.depth_m == other.depth_m).all() and (one.semantics == other.semantics).all()


def test_nights_are_dark_and_lamps_light_the_road_ahead(world, renderer):
    day = renderer.view(PINHOLE, map_T_cam(world), 0.0)
    night_world = make_world('night')
    night = Renderer(Scene(night_world))
    pose = map_T_cam(night_world)
    dark = night.view(PINHOLE, pose, 0.0)
    assert dark.image.mean() < 0.6 * day.image.mean()
    road = (dark.semantics == SEMANTIC_ID['road']) & (dark.depth_m < 12)
    unlit = replace(night_world, ego=replace(night_world.ego, path=night_world.ego.path + (40, 0)))
    without = Renderer(Scene(unlit)).view(PINHOLE, pose, 0.0)
    assert dark.image[road].mean() > without.image[road].mean() + 8


def test_boxes_cast_shadows_away_from_the_sun(world):
    car = world.actors[1]
    alone = Renderer(Scene(replace(world, actors=(car,))))
    middle = car.map_T_actor[:3, 3]
    pose = np.eye(4)
    pose[:3, :3] = np.diag([1.0, -1, -1])  # looks down
    pose[:3, 3] = middle + (0, 0, 12)
    toward = np.array(world.conditions.sun_direction[:2]) / np.cos(world.conditions.sun_height)
    along = 1 / max(abs(toward @ car.map_T_actor[:2, 1]), 0.3)  # leaves the box
    brightness = []
    for sign in (1, -1):
        xy = middle[:2] + sign * toward * (0.9 * along + 0.35)
        point = np.array([*xy, world.town.terrain.height_m(xy)])
        (uv,), seen = PINHOLE.project(rigid.transform_points(rigid.inverse(pose), point[None]))
        assert seen.all()
        u, v = np.round(uv).astype(int)
        view = alone.view(PINHOLE, pose, 0.0)
        assert (view.actors[v - 1 : v + 2, u - 1 : u + 2] == GROUND).all()
        brightness.append(view.image[v - 1 : v + 2, u - 1 : u + 2].mean())
    sunny, shady = brightness
    assert shady < 0.87 * sunny


def test_a_camera_that_sees_only_sky(world, renderer):
    pose = map_T_cam(world, height=40.0, down=-1.2)
    view = renderer.view(PINHOLE, pose, 0.0)
    assert (view.actors == NOTHING).all() and (view.depth_m == 0).all()
    assert (view.semantics == SEMANTIC_ID['sky']).all()
    assert view.image[..., 2].mean() > view.image[..., 0].mean() > 20  # blue, not black
