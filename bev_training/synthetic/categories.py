"""Names and numbers of what an image can show and a box can hold."""

from __future__ import annotations

# Index = value in semantic images.
SEMANTICS = (
    'sky', 'road', 'lane_marking', 'crosswalk', 'sidewalk', 'parking', 'terrain', 'building',
    'vegetation', 'pole', 'car', 'truck', 'bus', 'trailer', 'motorcycle', 'bicycle',
    'pedestrian', 'barrier', 'traffic_cone',
)  # fmt: skip
UNSEEN = 255  # in semantic images: pixels that no ray of the lens reaches
SEMANTIC_ID = {name: number for number, name in enumerate(SEMANTICS)}

VEHICLES = ('car', 'truck', 'bus', 'trailer', 'motorcycle', 'bicycle')
OBJECTS = (*VEHICLES, 'pedestrian', 'barrier', 'traffic_cone')  # these have boxes
SCENERY = ('building', 'vegetation', 'pole')  # these have none

# What a surface is made of: decides how it reflects light (rendering) and laser pulses (lidar).
MATERIALS = (
    'matte', 'paint', 'glass', 'metal', 'rubber', 'wall', 'window', 'roof', 'foliage', 'cloth',
    'lamp', 'tail_lamp', 'reflector', 'ground',
)  # fmt: skip
MATERIAL_ID = {name: number for number, name in enumerate(MATERIALS)}
