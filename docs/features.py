"""Draws docs/features.jpg: the features that a pretrained network predicts, and the teacher's.

    python docs/features.py RUN FRAMES [SAMPLE]    RUN: OUT of `bev pretrain`; FRAMES: drives

The sheet is one of `bev features RUN FRAMES --out PICTURES --teacher`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cv2

from bev_training.cli import main as bev

_WIDTH_PX = 1100


def main(run: str, frames: str, sample: str = '') -> None:
    """Draw the figure."""
    with tempfile.TemporaryDirectory() as folder:
        which = ['--sample', sample] if sample else ['--samples', '1']
        if failed := bev(['features', run, frames, '--out', folder, '--teacher', *which]):
            sys.exit(failed)
        (sheet,) = Path(folder).glob('samples/*_features.png')
        image = cv2.imread(str(sheet))
    height = round(image.shape[0] * _WIDTH_PX / image.shape[1])
    small = cv2.resize(image, (_WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    out = Path(__file__).with_name('features.jpg')
    cv2.imwrite(str(out), small, [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == '__main__':
    main(*sys.argv[1:])
