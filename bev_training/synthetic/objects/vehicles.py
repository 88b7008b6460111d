"""Vehicles of all categories."""

from __future__ import annotations

import numpy as np

from bev_perception.errors import ConfigError
from bev_training.synthetic.categories import VEHICLES
from bev_training.synthetic.objects.cars import car
from bev_training.synthetic.objects.cycles import bicycle, motorcycle
from bev_training.synthetic.objects.heavy import bus, trailer, truck
from bev_training.synthetic.objects.mesh import Mesh
from bev_training.synthetic.objects.style import Style


def vehicle(category: str, rng: np.random.Generator, style: Style, *, ridden: bool = True) -> Mesh:
    """Return a vehicle that faces x; kind, size and colours are drawn at random.

    Args:
        category: of `categories.VEHICLES`.
        rng: source of all choices.
        style: the town's paints.
        ridden: puts somebody on motorcycles and bicycles.

    Raises:
        ConfigError: there is no such category.
    """
    if category == 'car':
        return car(rng, style)
    if category == 'truck':
        return truck(rng, style)
    if category == 'bus':
        return bus(rng, style)
    if category == 'trailer':
        return trailer(rng, style)
    if category == 'motorcycle':
        return motorcycle(rng, style, ridden=ridden)
    if category == 'bicycle':
        return bicycle(rng, style, ridden=ridden)
    raise ConfigError(f'vehicle category {category!r}: must be one of {", ".join(VEHICLES)}')
