"""Bird's-eye-view perception from surround cameras: what runs on the vehicle.

The walk of a camera frame, module by module (nothing here but ``ros`` imports ROS):

- ``messages``: camera, calibration, transform, odometry and point messages into arrays and the
  types below; the same code reads live and recorded ones. ``images``: JPEG and raw pixels.
- ``sync``: images of one instant, out of streams that jitter, drop and stop.
- ``transforms``: where each camera was at that instant.
- ``views``: ``ViewSet``, the images of one instant with their cameras. Everything above it helps
  to make one, everything below it consumes one.
- ``geometry``: rigid transforms, camera models, the bird's-eye-view grid.
- ``preprocess``, ``model``, ``predictor``: a ``ViewSet`` into probabilities per cell.
- ``occupancy``: probabilities and visibility into the cells of an occupancy grid.
- ``ros``: the node and its executables.
- ``errors``, ``shapes``, ``resources``: the exception family, the axis legend, the files shipped
  with the package.

This module imports nothing, so that importing one part costs only that part.
"""
