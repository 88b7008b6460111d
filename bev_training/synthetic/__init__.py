"""Synthetic drives: a small procedural street, seen by a six-camera rig and a lidar.

`world` (with `route` and `solids`) says what is where at which time, `rig` which sensors see it,
`render` (with `ground` and `ordering`) makes images, `lidar` point clouds, `truth` class grids;
`frames` gives all of it in memory. `drive` writes it: `slices` renders in parallel, `bag` and
`messages` make the rosbag2, `settings` and `stored_truth` describe and read it back.

Imports nothing, so that the command line stays quick.
"""
