from collections.abc import Callable

import numpy as np
import pytest
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from bev_perception.errors import ConfigError
from bev_training.synthetic.categories import MATERIAL_ID, MATERIALS
from bev_training.synthetic.objects.buildings import building
from bev_training.synthetic.objects.mesh import Mesh
from bev_training.synthetic.objects.people import pedestrian
from bev_training.synthetic.objects.street import (
    barrier,
    lamp_post,
    sign_post,
    traffic_cone,
    traffic_light,
    tree,
)
from bev_training.synthetic.objects.style import Style, draw_style
from bev_training.synthetic.objects.vehicles import vehicle

Rng = np.random.Generator
SEEDS = range(25)

# kind: (how to make it, most triangles, smallest and largest length, width, height)
KINDS: dict[str, tuple[Callable[[Rng, Style], Mesh], int, list[tuple[float, float]]]] = {
    'car': (lambda r, s: vehicle('car', r, s), 450, [(3.6, 5.9), (1.75, 2.2), (1.35, 2.25)]),
    'truck': (lambda r, s: vehicle('truck', r, s), 560, [(5.9, 10), (2.3, 2.7), (2.4, 3.9)]),
    'bus': (lambda r, s: vehicle('bus', r, s), 420, [(10, 12.6), (2.5, 2.65), (2.9, 3.4)]),
    'trailer': (lambda r, s: vehicle('trailer', r, s), 620, [(8, 12.1), (2.4, 2.6), (3, 4.1)]),
    'motorcycle': (
        lambda r, s: vehicle('motorcycle', r, s), 720, [(1.5, 2.3), (0.6, 1), (1.4, 1.9)],
    ),
    'bicycle': (
        lambda r, s: vehicle('bicycle', r, s), 720, [(1.5, 2.0), (0.5, 0.9), (1.5, 2.0)],
    ),
    'bicycle left alone': (
        lambda r, s: vehicle('bicycle', r, s, ridden=False),
        360, [(1.5, 2.0), (0.45, 0.7), (0.9, 1.2)],
    ),
    'pedestrian': (lambda r, s: pedestrian(r), 600, [(0.15, 2.0), (0.3, 1.0), (1.09, 1.98)]),
    'barrier': (lambda r, s: barrier(r), 80, [(1.1, 3.01), (0.2, 0.65), (0.8, 1.1)]),
    'traffic_cone': (lambda r, s: traffic_cone(r), 130, [(0.25, 0.6), (0.25, 0.6), (0.44, 0.96)]),
    'lamp post': (lambda r, s: lamp_post(r), 130, [(0.2, 0.4), (1.2, 3.1), (5.9, 9.1)]),
    'sign post': (lambda r, s: sign_post(r), 140, [(0.05, 0.2), (0.3, 1.3), (2.1, 3.1)]),
    'traffic light': (lambda r, s: traffic_light(r), 130, [(0.4, 0.7), (0.25, 0.7), (2.8, 3.8)]),
    'tree': (tree, 300, [(1.0, 12), (1.0, 12), (3.5, 15)]),
    'building': (
        lambda r, s: building(r, r.uniform(6, 30), r.uniform(6, 16), s),
        800, [(6, 30), (6, 16), (3.0, 45)],
    ),
}  # fmt: skip


def made(kind: str, seed: int) -> Mesh:
    return KINDS[kind][0](np.random.default_rng([seed, 1]), style_of(seed))


def style_of(seed: int) -> Style:
    return draw_style(np.random.default_rng([seed, 2]))


@pytest.mark.parametrize('kind', KINDS)
def test_meshes_are_sound_and_fill_their_box(kind: str) -> None:
    _, most, limits = KINDS[kind]
    for seed in SEEDS:
        mesh = made(kind, seed)
        count = len(mesh.triangles)
        assert 10 < count <= most, seed
        assert (mesh.vertices.dtype, mesh.triangles.dtype) == (np.float32, np.int32)
        assert (mesh.colors.dtype, mesh.materials.dtype) == (np.float32, np.uint8)
        assert mesh.colors.shape == (count, 3)
        assert mesh.materials.shape == (count,)
        assert np.isfinite(mesh.vertices).all()
        assert 0 <= mesh.colors.min() <= mesh.colors.max() <= 1
        assert mesh.materials.max() < len(MATERIALS)
        assert 0 <= mesh.triangles.min() <= mesh.triangles.max() < len(mesh.vertices)
        corners = mesh.vertices[mesh.triangles].astype(float)
        edges = corners[:, 1:] - corners[:, :1]
        assert np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=-1).min() > 2e-8
        low, high = corners.min((0, 1)), corners.max((0, 1))
        np.testing.assert_allclose(low, [-high[0], -high[1], 0], atol=1e-5)
        np.testing.assert_allclose(mesh.size_m, [2 * high[0], 2 * high[1], high[2]], rtol=1e-5)
        for size, (least, largest) in zip(mesh.size_m, limits, strict=True):
            assert least <= size <= largest, seed


@pytest.mark.parametrize('kind', KINDS)
def test_rays_from_outside_meet_front_faces(kind: str) -> None:
    front = hits = 0
    for seed in SEEDS[:8]:
        mesh = made(kind, seed)
        rng = np.random.default_rng(seed)
        away = rng.normal(size=(1500, 3))
        away[:, 2] = np.abs(away[:, 2])
        away /= np.linalg.norm(away, axis=-1, keepdims=True)
        size = np.array(mesh.size_m)
        aim = rng.uniform(-0.5, 0.5, (1500, 3)) * size + [0, 0, size[2] / 2]
        corners = mesh.vertices[mesh.triangles]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        scene = EmbreeScene()
        TriangleMesh(scene, mesh.vertices, mesh.triangles)
        start = (aim + 3 * np.linalg.norm(size) * away).astype(np.float32)
        struck = scene.run(start, -away.astype(np.float32), output=True)['primID'].astype(int)
        met = struck >= 0
        hits += int(met.sum())
        front += int(((normals[struck[met]] * away[met]).sum(-1) > 0).sum())
    assert hits > 100
    assert front >= 0.99 * hits


@pytest.mark.parametrize('kind', KINDS)
def test_a_seed_gives_one_mesh_and_another_seed_another(kind: str) -> None:
    one, same, other = made(kind, 3), made(kind, 3), made(kind, 4)
    for name in ('vertices', 'triangles', 'colors', 'materials'):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert one.vertices.shape != other.vertices.shape or (one.vertices != other.vertices).any()


def test_buildings_fill_any_footprint_and_face_minus_y() -> None:
    panes = {-1: 0.0, 1: 0.0}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        length, depth = rng.uniform(4, 40), rng.uniform(4, 25)
        mesh = building(rng, length, depth, style_of(seed))
        np.testing.assert_allclose(mesh.size_m[:2], [length, depth], rtol=1e-5)
        assert len(mesh.triangles) <= 800, seed
        of = mesh.triangles[mesh.materials == MATERIAL_ID['paint']]  # doors
        middle = mesh.vertices[of].mean(1)[:, 1]
        for side in panes:
            panes[side] += float((middle * side > 0).sum())
    assert panes[1] == 0 < panes[-1]


def test_a_car_faces_x() -> None:
    for category in ('car', 'truck', 'bus', 'motorcycle', 'bicycle'):
        for seed in SEEDS:
            mesh = made(category, seed)
            x = mesh.vertices[mesh.triangles].mean(1)[:, 0]
            lamps, tails = (mesh.materials == MATERIAL_ID[n] for n in ('lamp', 'tail_lamp'))
            assert x[lamps].min() > 0 > x[tails].max()


def test_towns_differ() -> None:
    styles = [style_of(seed) for seed in SEEDS]
    assert len({style.walls for style in styles}) == len(styles)
    assert len({style.floors for style in styles}) > 5
    for style in styles:
        assert 1 <= style.floors[0] <= style.floors[1] <= 10
        for weights in (style.roof_weights, style.tree_weights, style.paint_weights):
            assert sum(weights) == pytest.approx(1)
    flats = [style.roof_weights[0] for style in styles]
    assert min(flats) < 0.2 < 0.7 < max(flats)


def test_wrong_orders_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match=r'vehicle category .boat.: must be one of car, truck'):
        vehicle('boat', rng, style_of(0))
    with pytest.raises(ConfigError, match=r'building depth_m 2: must be at least 4'):
        building(rng, 10, 2, style_of(0))
