"""Ways of training, one file each; all have the shape of `segmentation.SegmentationObjective`."""
