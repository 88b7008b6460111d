"""Worlds and scenes that tests share: building one takes seconds, a tiny image milliseconds."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest

from bev_training.synthetic import slices
from bev_training.synthetic.make_world import make_world
from bev_training.synthetic.rendering.renderer import Renderer
from bev_training.synthetic.rendering.scene import Scene
from bev_training.synthetic.rig import Rig, nuscenes_rig
from bev_training.synthetic.settings import DriveConfig
from bev_training.synthetic.world import World

TINY = (160, 90)

scene_of = lru_cache(maxsize=4)(Scene)
renderer_of = lru_cache(maxsize=4)(Renderer)
_world = lru_cache(maxsize=8)(make_world)


def world_of(config: DriveConfig) -> World:
    """The world of these settings, made once."""
    return _world(
        seed=config.seed,
        seconds=config.seconds,
        speed_mps=config.speed_mps,
        weather=config.weather,
        town_seed=config.town_seed,
        vehicle=config.rig_or_default().vehicle,
    )


def reuse(patch: pytest.MonkeyPatch) -> None:
    """Let drives that are written in this process share worlds and scenes."""
    patch.setattr(DriveConfig, 'world', world_of)
    patch.setattr(slices, 'Scene', scene_of)
    patch.setattr(slices, 'Renderer', renderer_of)


def few_cameras(rig: Rig, *names: str) -> Rig:
    """The same rig with fewer cameras: quicker."""
    return replace(rig, cameras=tuple(c for c in rig.cameras if c.name in names))


def quick(**settings: Any) -> DriveConfig:
    """A drive of one frame of one camera."""
    rig = few_cameras(nuscenes_rig(TINY), 'front')
    return DriveConfig(
        **{'seconds': 0.1, 'seed': 3, 'town_seed': 3, 'rig': rig, 'weather': 'clear', **settings}
    )
