"""The eight corruptions of nuScenes-C, and cameras that are lost, for the images of any rig.

Xie et al., "RoboBEV: towards robust bird's eye view perception under corruptions", 2023. Only
pixels change: cameras, poses and stamps stay what they were.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bev_perception.errors import ConfigError
from bev_perception.shapes import ImageRgb
from bev_perception.views import ViewSet
from bev_training.evaluation.image_corruptions import (
    brightness,
    color_quant,
    low_light,
    motion_blur,
)
from bev_training.evaluation.weather import fog, snow

# The order gives a corruption its number in the seed; a new one comes last.
CORRUPTIONS = (
    'camera_crash',
    'frame_lost',
    'motion_blur',
    'color_quant',
    'brightness',
    'low_light',
    'fog',
    'snow',
)
SEVERITIES = {1: 'easy', 2: 'mid', 3: 'hard'}

_OF_IMAGE: Mapping[str, Callable[[ImageRgb, int, np.random.Generator], ImageRgb]] = {
    'motion_blur': motion_blur,
    'color_quant': color_quant,
    'brightness': brightness,
    'low_light': low_light,
    'fog': fog,
    'snow': snow,
}
_LOST_OF_SIX = (2, 4, 5)  # black cameras by severity
_LOSING = 1000  # number in the seed that no corruption gets


def corrupt(view_set: ViewSet, name: str, severity: int, *, key: str, seed: int = 0) -> ViewSet:
    """Return a view set whose images are corrupted.

    What is drawn depends on the seed, the sample, the camera's name and the corruption, and on
    nothing else: neither on the order of samples or cameras, nor on the severity, so that
    severities of a sample differ in strength alone (the camera that is black at 1 is so at 3).

    'camera_crash' makes the same cameras black in every sample, as `crashed_cameras` says;
    'frame_lost' each image with a probability of 2/6, 4/6 or 5/6. A black camera is still there
    for the network, as nobody told it.

    Args:
        view_set: as it was read; images of any size.
        name: one of `CORRUPTIONS`.
        severity: 1 easy, 2 mid, 3 hard.
        key: the sample's name.
        seed: of the whole evaluation.

    Raises:
        ConfigError: name, severity or seed are not known; or a rig of one camera is to crash.
    """
    check_corruptions([name], [severity])
    chance = {
        view.name: _rng(seed, key, view.name, CORRUPTIONS.index(name)) for view in view_set.views
    }
    black: Collection[str] = ()
    if name == 'camera_crash':
        # A sample that lacks a camera must not give another rig than the samples beside it.
        rig = [*chance, *view_set.missing]
        black = crashed_cameras(rig, severity, seed=seed)
    elif name == 'frame_lost':
        share = _LOST_OF_SIX[severity - 1] / 6
        black = [camera for camera, rng in chance.items() if rng.random() < share]
    views = []
    for view in view_set.views:
        image = view.image
        if name in _OF_IMAGE:
            image = _OF_IMAGE[name](image, severity, chance[view.name])
        elif view.name in black:
            image = np.zeros_like(image)
        views.append(replace(view, image=image))
    return replace(view_set, views=tuple(views))


def crashed_cameras(names: Sequence[str], severity: int, *, seed: int = 0) -> tuple[str, ...]:
    """Return the cameras of a rig that crash, the same ones for a whole set.

    2, 4 or 5 of six; of n cameras as many in proportion, rounded (half up), at least one and at
    most n - 1, so severities may fall together on a small rig. They are drawn without
    replacement: nuScenes-C draws with it, by which a severity can lose fewer cameras than it
    says, and as few as the one below.

    Args:
        names: of all cameras of the rig, in any order.
        severity: 1 easy, 2 mid, 3 hard.
        seed: of the whole evaluation.

    Raises:
        ConfigError: the rig has one camera, which cannot crash and leave another.
    """
    rig = sorted(names)
    if len(rig) < 2:
        raise ConfigError(
            f'camera_crash needs two cameras or more, the rig has {rig}; leave camera_crash out'
        )
    count = int(_LOST_OF_SIX[severity - 1] * len(rig) / 6 + 0.5)
    order = _rng(seed, '\n'.join(rig), CORRUPTIONS.index('camera_crash')).permutation(len(rig))
    return tuple(rig[i] for i in order[: min(max(count, 1), len(rig) - 1)])


def lose_cameras(view_set: ViewSet, count: int, *, key: str, seed: int = 0) -> ViewSet:
    """Return a view set in which `count` cameras of the rig are missing, and known to be.

    Those that are missing already count. Which ones go is drawn anew for every sample; who is
    lost at a count is so at a higher one.

    Args:
        view_set: as it was read.
        count: 0 to all cameras but one.
        key: the sample's name.
        seed: of the whole evaluation.

    Raises:
        ConfigError: no camera would be left, or the count is negative.
    """
    rig = len(view_set.views) + len(view_set.missing)
    if not 0 <= count < max(rig, 1):
        raise ConfigError(
            f'{count} lost cameras of a rig of {rig} ({key}); it must be 0 to {max(rig - 1, 0)}'
        )
    names = sorted(view.name for view in view_set.views)
    order = _rng(seed, key, _LOSING).permutation(len(names))
    lost = {names[i] for i in order[: max(count - len(view_set.missing), 0)]}
    return replace(
        view_set,
        views=tuple(view for view in view_set.views if view.name not in lost),
        missing=(
            *view_set.missing,
            *(view.name for view in view_set.views if view.name in lost),
        ),
    )


def check_corruptions(names: Sequence[str], severities: Sequence[int]) -> None:
    """Check names of corruptions and severities.

    Raises:
        ConfigError: one is not known; the message lists those that are.
    """
    for name in names:
        if name not in CORRUPTIONS:
            raise ConfigError(f'corruption {name!r} is none of {", ".join(CORRUPTIONS)}')
    for severity in severities:
        if severity not in SEVERITIES:
            known = ', '.join(f'{s} ({said})' for s, said in SEVERITIES.items())
            raise ConfigError(f'severity {severity!r} is none of {known}')


def _rng(seed: int, *what: str | int) -> np.random.Generator:
    """Return a source of chance of its own for each of the things that are told apart."""
    if seed < 0:
        raise ConfigError(f'seed is {seed}; it must be 0 or more')
    return np.random.default_rng(
        [seed, *(zlib.crc32(w.encode()) if isinstance(w, str) else w for w in what)]
    )
