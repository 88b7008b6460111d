"""Draws docs/augmented.jpg: a labelled sample as it is, and as a training step may see it.

python docs/augmented_sample.py FRAMES OUT.jpg [RECIPE]    FRAMES: labelled drives
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from bev_training.data.augment import augment, augment_decode_size_px
from bev_training.data.sample import read_sample
from bev_training.data.sample_picture import draw_sample
from bev_training.data.sources import open_source
from bev_training.fit.recipes import find_recipe, read_recipe


def main(frames: str, out: str, recipe: str = 'town') -> None:
    """Draw both below each other."""
    config = read_recipe(find_recipe(recipe), [])
    model = config.model
    source = open_source(frames, classes=model.classes, grid=model.grid)
    size_px = augment_decode_size_px(config.augment, model)
    sample = read_sample(source, len(source) // 3, at_least_px=size_px, points=True)
    varied = augment(sample, config.augment, model, np.random.default_rng([config.seed, 3]))
    with tempfile.TemporaryDirectory() as folder:
        parts = {'as recorded': sample, f'as the recipe {recipe} may vary it': varied}
        pictures = []
        for note, each in parts.items():
            path = Path(folder) / 'part.png'
            draw_sample(path, each, model.grid, notes=(note,))
            pictures.append(cv2.imread(str(path)))
    width = min(picture.shape[1] for picture in pictures)
    both = np.concatenate([picture[:, :width] for picture in pictures])
    cv2.imwrite(out, both, [cv2.IMWRITE_JPEG_QUALITY, 82])


if __name__ == '__main__':
    main(*sys.argv[1:])
