"""Draws docs/corruptions.jpg: one camera's image, as it is and under every corruption.

python docs/corruptions.py FRAMES OUT.jpg [CAMERA [SAMPLE]]    FRAMES: labelled drives
"""

from __future__ import annotations

import sys

import cv2
import numpy as np

from bev_perception.errors import ConfigError
from bev_perception.shapes import ImageRgb
from bev_perception.views import ViewSet
from bev_training.data.sources import open_source
from bev_training.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from bev_training.fit.recipes import find_recipe, read_recipe

_WIDTH_PX, _GAP_PX, _LINE_PX = 288, 3, 16
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def main(frames: str, out: str, camera: str = 'front', sample: str = '0') -> None:
    """Draw a row for every corruption: the clean image and three severities."""
    model = read_recipe(find_recipe('town'), []).model
    source = open_source(frames, classes=model.classes, grid=model.grid)
    view_set, key = source.view_set(int(sample)), source.keys[int(sample)]
    rows = []
    for name in CORRUPTIONS:
        pictures = [_titled(_pick(view_set, camera), 'as recorded')]
        for severity, said in SEVERITIES.items():
            changed = corrupt(view_set, name, severity, key=key)
            pictures.append(_titled(_pick(changed, camera), f'{name}, {said}'))
        rows.append(np.concatenate(pictures, axis=1))
    picture = np.concatenate(rows)[..., ::-1]
    cv2.imwrite(out, picture, [cv2.IMWRITE_JPEG_QUALITY, 76])


def _pick(view_set: ViewSet, camera: str) -> ImageRgb:
    for view in view_set.views:
        if view.name == camera:
            return view.image
    raise ConfigError(f'no camera {camera!r} among {[view.name for view in view_set.views]}')


def _titled(image: ImageRgb, title: str) -> ImageRgb:
    height_px = round(image.shape[0] * _WIDTH_PX / image.shape[1])
    small = cv2.resize(image, (_WIDTH_PX, height_px), interpolation=cv2.INTER_AREA)
    tile = cv2.copyMakeBorder(
        small, _LINE_PX, 0, 0, _GAP_PX, cv2.BORDER_CONSTANT, value=(255, 255, 255)
    )
    return cv2.putText(tile, title, (2, _LINE_PX - 4), _FONT, 0.4, (0, 0, 0), 1, cv2.LINE_AA)


if __name__ == '__main__':
    main(*sys.argv[1:])
