"""What stored features are like: numbers and a picture that show a teacher that cannot teach.

Good features of driving scenes spread over many directions, are the same for the same place from
two cameras, and differ from place to place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
import torch

from bev_perception.errors import BagError
from bev_perception.model.lift import project, sample
from bev_perception.shapes import AnyArray, Array, ImageRgb
from bev_training.data.sample import SampleSource
from bev_training.teachers.cache import FeatureCache, FeatureMaps, write_shared
from bev_training.teachers.views import teacher_decode_px, teacher_images

_SAMPLES = 24  # looked at, evenly over all
_PICTURED = 3
_TOKENS = 2000  # of a sample, for the principal components
_POINTS = 2000  # of a sample, for the agreement of cameras
_MOST_IN_ONE = 0.5  # share of the variance in one direction
_LEAST_AGREEMENT = 0.1  # by which cosines of the same place exceed those of others


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What features are like.

    Attributes:
        samples: asked for.
        coverage: share of them that have features.
        disk_gb: all features in the folder.
        looked_at: samples that the rest was computed from.
        not_finite: share of values that are not finite.
        first_component: share of the variance along the first principal component.
        ten_components: likewise, of the first ten.
        same_point: mean cosine of the features of a lidar point in two cameras; None where no
            point is seen by two.
        other_points: mean cosine of the features of two points in two cameras.
        points_seen: share of the lidar points that a camera sees.
        warnings: what is wrong with them.
    """

    samples: int
    coverage: float
    disk_gb: float
    looked_at: int
    not_finite: float
    first_component: float
    ten_components: float
    same_point: float | None
    other_points: float | None
    points_seen: float | None
    warnings: tuple[str, ...]


def judge(
    cache: FeatureCache, source: SampleSource, indices: Sequence[int], *, left_out: int = 0
) -> str:
    """Write `quality.json` and `quality.png` into the cache's folder; say it in a few sentences.

    Args:
        cache: of the features; nothing is written where they are somebody else's.
        source: of the samples.
        indices: the samples that should have features.
        left_out: how many of them have none.

    Raises:
        BagError: they cannot be written.
        BevError: a sample cannot be read.
    """
    most = max(1, min(_SAMPLES, len(indices)))
    chosen = [indices[k * len(indices) // most] for k in range(most)] if len(indices) else []
    found = [(i, maps) for i in chosen if (maps := cache.load(source.fingerprint(i))) is not None]
    if not found:
        return ''
    tokens = np.concatenate([_some_tokens(maps, i) for i, maps in found])
    finite = np.isfinite(tokens).all(-1)
    mean, shares, axes = principal_components(tokens[finite])
    first = float(shares[:1].sum())
    pairs = [camera_pairs(maps, source.points(i), cache.size_px, i) for i, maps in found]
    same, other, seen = _agreement(pairs)
    not_finite = float(np.mean([1 - np.isfinite(maps.features).mean() for _, maps in found]))
    quality = Quality(
        samples=len(indices),
        coverage=1 - left_out / max(1, len(indices)),
        disk_gb=cache.used_bytes() / 1e9,
        looked_at=len(found),
        not_finite=not_finite,
        first_component=first,
        ten_components=float(shares[:10].sum()),
        same_point=same,
        other_points=other,
        points_seen=seen,
        warnings=tuple(_warnings(not_finite, first, same, other)),
    )
    if not cache.read_only:
        _write(cache, source, quality, found, (mean, axes))
    return _text(quality)


def principal_components(tokens: AnyArray) -> tuple[Array, Array, Array]:
    """Return the mean of vectors (n, c), the share of the variance along each principal axis, and
    the axes (c, c) as rows, largest first.
    """
    vectors = tokens.astype(np.float64)
    if not len(vectors):
        vectors = np.zeros((1, tokens.shape[1]))
    mean = vectors.mean(0)
    vectors -= mean  # in place: of a large teacher they take half a GB
    values, axes = np.linalg.eigh(vectors.T @ vectors / len(vectors))
    values = values[::-1].clip(0)
    return mean, values / max(values.sum(), 1e-30), axes.T[::-1]


def camera_pairs(
    maps: FeatureMaps, points_m: AnyArray, size_px: tuple[int, int], seed: int = 0
) -> tuple[Array, Array, float]:
    """Compare the features of lidar points in pairs of cameras.

    Args:
        maps: of a sample.
        points_m: (p, 3) in its ego frame.
        size_px: (width, height) of the images.
        seed: of the choice of points.

    Returns:
        Cosines of the same point in two cameras, cosines of different points in the same pairs of
        cameras, and the share of the points that a camera sees.
    """
    if not len(points_m):
        return np.empty(0), np.empty(0), float('nan')
    rng = np.random.default_rng([seed, len(points_m)])
    points = torch.from_numpy(np.asarray(points_m, np.float32))
    K, ego_T_cam = torch.from_numpy(maps.K), torch.from_numpy(maps.ego_T_cam)
    uv, seen = project(points, K, ego_T_cam, size_px)
    same, other = [], []
    for a in range(len(K)):
        for b in range(a + 1, len(K)):
            both = np.flatnonzero((seen[a] & seen[b]).numpy())
            both = rng.permutation(both)[:_POINTS]
            if len(both) < 2:
                continue
            first, second = (
                sample(torch.from_numpy(maps.features[n])[None], uv[n, both][None], size_px)[0]
                for n in (a, b)
            )
            same.append(_cosines(first, second))
            other.append(_cosines(first, second.roll(len(both) // 2, -1)))
    empty = np.empty(0)
    return (
        np.concatenate(same) if same else empty,
        np.concatenate(other) if other else empty,
        float(seen.any(0).float().mean()),
    )


def _cosines(first: torch.Tensor, second: torch.Tensor) -> Array:
    """Return the cosines of columns (c, p) of equal numbers; those not finite are left out."""
    cosine = torch.nn.functional.cosine_similarity(first.float(), second.float(), 0)
    return cosine[cosine.isfinite()].double().numpy()


def _agreement(
    pairs: Sequence[tuple[Array, Array, float]],
) -> tuple[float | None, float | None, float | None]:
    same, other = (np.concatenate([pair[k] for pair in pairs]) for k in (0, 1))
    seen = [pair[2] for pair in pairs if np.isfinite(pair[2])]
    return (
        float(same.mean()) if len(same) else None,
        float(other.mean()) if len(other) else None,
        float(np.mean(seen)) if seen else None,
    )


def _some_tokens(maps: FeatureMaps, seed: int) -> AnyArray:
    tokens = np.moveaxis(maps.features, 1, -1).reshape(-1, maps.features.shape[1])
    rng = np.random.default_rng([seed, len(tokens)])
    return tokens[rng.permutation(len(tokens))[:_TOKENS]]


def _warnings(
    not_finite: float, first: float, same: float | None, other: float | None
) -> list[str]:
    said = []
    if not_finite:
        said.append(f'{not_finite:.2%} of the values are not finite')
    if first > _MOST_IN_ONE:
        said.append(
            f'one direction holds {first:.0%} of the variance: the features hardly tell places '
            'apart; take another block of the teacher'
        )
    if same is not None and other is not None and same - other < _LEAST_AGREEMENT:
        said.append('two cameras agree on a place no more than on different places')
    return said


def _text(quality: Quality) -> str:
    text = (
        f' Their first principal component holds {quality.first_component:.0%} of the variance, '
        f'the first ten {quality.ten_components:.0%}'
    )
    if quality.same_point is not None and quality.other_points is not None:
        text += (
            f'; the cosine of the same lidar point in two cameras is {quality.same_point:.2f}, of '
            f'different ones {quality.other_points:.2f}'
        )
    return ''.join([f'{text}.', *(f' Warning: {line}.' for line in quality.warnings)])


def _write(
    cache: FeatureCache,
    source: SampleSource,
    quality: Quality,
    found: Sequence[tuple[int, FeatureMaps]],
    components: tuple[Array, Array],
) -> None:
    rows = []
    for i, maps in found[:: -(-len(found) // _PICTURED)]:
        views = source.view_set(i, at_least_px=teacher_decode_px(cache.size_px))
        images, _, _ = teacher_images(views, cache.size_px)
        rows += [np.hstack(list(images)), np.hstack(_colored(maps, cache.size_px, components))]
    width = max(row.shape[1] for row in rows)
    sheet = np.vstack([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])
    done, png = cv2.imencode('.png', sheet[..., ::-1])
    assert done  # of 8-bit arrays
    try:
        write_shared(cache.folder / 'quality.png', png.tobytes())
        text = json.dumps(asdict(quality), indent=2)
        write_shared(cache.folder / 'quality.json', f'{text}\n'.encode())
    except OSError as error:
        raise BagError(f'{cache.folder} cannot be written: {error.strerror or error}') from error


def _colored(
    maps: FeatureMaps, size_px: tuple[int, int], components: tuple[Array, Array]
) -> list[ImageRgb]:
    """Return the first three principal components of every camera as red, green and blue."""
    mean, axes = components
    values = (np.moveaxis(maps.features, 1, -1).astype(np.float64) - mean) @ axes[:3].T
    values = np.nan_to_num(values, posinf=0, neginf=0)
    low, high = np.percentile(values, (2, 98), axis=(0, 1, 2))
    colors = (255 * ((values - low) / np.maximum(high - low, 1e-9)).clip(0, 1)).astype(np.uint8)
    if colors.shape[-1] < 3:
        colors = np.repeat(colors[..., :1], 3, -1)
    return [cv2.resize(color, size_px, interpolation=cv2.INTER_NEAREST) for color in colors]
