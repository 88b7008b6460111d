"""Synthetic drives: a procedural town, seen by the cameras and the lidar of any rig.

`town/` is the map, `objects/` what stands and moves on it; `make_world` puts them together with
the weather (`conditions`) to the `world` of a drive. `rig` (from YAML: `rig_yaml`) says which
sensors see it. `rendering/` casts rays and shades them, `lidar` makes point clouds, `truth` class
grids, `visibility` says what cameras see of objects; `frames` gives all of it in memory.

`drive` writes a drive: `slices` renders in parallel, `bag` makes the rosbag2,
`settings` and `stored_truth` describe it and read it back; `drives` writes several.
`nuscenes_format/` writes data sets as nuScenes does. `preview` draws what was written.

Imports nothing, so that the command line stays quick.
"""
