"""Synthetic scenes as a data set in nuScenes' format, which its devkit and its readers take."""

from bev_training.synthetic.nuscenes_format.config import NuscenesConfig, NuscenesSummary
from bev_training.synthetic.nuscenes_format.write import write_nuscenes

__all__ = ['NuscenesConfig', 'NuscenesSummary', 'write_nuscenes']
