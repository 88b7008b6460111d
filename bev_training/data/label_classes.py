"""Names of what can be labelled, and what kind of thing each is.

Areas and lines come from a map, objects from boxes. nuScenes' names where it has them.
"""

from __future__ import annotations

from bev_perception.geometry.grid import BevGrid

AREAS = ('drivable_area', 'walkway', 'ped_crossing', 'carpark_area')
# `divider` is road_divider and lane_divider together, `ped_crossing_line` the two long edges of a
# crossing, `road_boundary` the rim of the road: the three classes of HDMapNet are
# (divider, ped_crossing_line, road_boundary).
LINES = ('road_divider', 'lane_divider', 'road_boundary', 'divider', 'ped_crossing_line')
OBJECTS = ('vehicle', 'pedestrian')
CLASSES = (*AREAS, *LINES, *OBJECTS)


def line_half_width_m(grid: BevGrid) -> float:
    """Return how far from a line a cell's centre may lie: paint is thinner than cells."""
    return max(0.3, 0.6 * grid.cell_m)
