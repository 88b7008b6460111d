"""The hook that every image passes before it is written, and an example that blurs boxes.

A team writes a function of (image, camera, stamp_ns) and names it, in a file or a package of its
own. A detector of faces and plates would look like this:

    # my_privacy.py, used as --privacy my_privacy.py:anonymise
    from bev_training.data.privacy import blur_boxes

    detector = load_my_detector()

    def anonymise(image, camera, stamp_ns):
        return blur_boxes(image, detector.boxes_px(image))

And boxes that were found before, or stand still in the image, like this:

    # my_privacy.py
    from bev_training.data.privacy import blur_from_file

    anonymise = blur_from_file('boxes.json')
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import cv2
import numpy as np

from bev_perception.errors import ConfigError
from bev_perception.shapes import ImageRgb

# (image, camera, stamp_ns) -> image of the same size. The image given is the function's own.
ImageFunction: TypeAlias = Callable[[ImageRgb, str, int], ImageRgb]
Box: TypeAlias = Sequence[float]  # left, top, right, bottom in pixels; right and bottom outside

_CELLS = 2  # that remain of a box along its shorter side: no letter, no eye
_MAX_CELLS = 4  # along the longer side
_LEVELS = 16  # colours are rounded to this step, so that trying out texts finds none


def load_function(name: str) -> ImageFunction:
    """Return the function that a user named.

    Args:
        name: 'package.module:function' or 'path/to/file.py:function' (relative to the working
            folder). The file runs like an imported module, without its folder on `sys.path`.

    Raises:
        ConfigError: there is none of that name, it cannot be imported or cannot be called.
    """
    where, attribute = _split(name)
    module = _from_file(Path(where), name) if _is_file(where) else _from_package(where, name)
    function = getattr(module, attribute, None)
    if function is None:
        known = sorted(n for n, v in vars(module).items() if callable(v) and n[0] != '_')
        raise ConfigError(f'privacy {name!r}: {where} has no {attribute!r}; it has {known}')
    if not callable(function):
        raise ConfigError(f'privacy {name!r} is a {type(function).__name__}, not a function')
    loaded: ImageFunction = function
    return loaded


def source_sha256(name: str) -> str:
    """Return the hash of the file that holds a loaded function, '' where there is none.

    What that file imports or reads (weights, lists of boxes) is not in it.
    """
    where, _ = _split(name)
    file = where if _is_file(where) else getattr(sys.modules.get(where), '__file__', None)
    if file is None or not Path(file).is_file():
        return ''
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def blur_boxes(image: ImageRgb, boxes_px: Iterable[Box]) -> ImageRgb:
    """Make what is inside the boxes unreadable; all other pixels stay as they are.

    A box keeps the rounded mean colours of at most 2 x 4 cells, blended into each other: nothing
    that sharpening, or comparing with blurred guesses, could bring back.

    Args:
        image: (h, w, 3) uint8.
        boxes_px: (left, top, right, bottom) of each; rounded outwards, cut at the image's edge.

    Raises:
        ConfigError: a box is not four finite numbers.
    """
    result = image.copy()
    height, width = image.shape[:2]
    for box in boxes_px:
        if len(box) != 4 or not all(math.isfinite(v) for v in box):
            raise ConfigError(f'box {list(box)} must be left, top, right, bottom in pixels')
        left, top = max(math.floor(box[0]), 0), max(math.floor(box[1]), 0)
        right, bottom = min(math.ceil(box[2]), width), min(math.ceil(box[3]), height)
        if right > left and bottom > top:
            # From the result: where boxes overlap, nothing of the original comes back.
            result[top:bottom, left:right] = _cells(result[top:bottom, left:right])
    return result


def blur_from_file(path: Path | str) -> ImageFunction:
    """Return a function that blurs the boxes listed in a JSON file.

    The file holds, by camera name, either a list of boxes for every image of that camera, or an
    object with a list of boxes by stamp (nanoseconds as text). An image that is not listed is an
    error: no box found and not looked at are different things.

        {"back": [[600, 700, 1000, 900]],
         "front": {"1700000000000000000": [[10, 20, 60, 40]], "1700000000100000000": []}}

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        listed = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f'boxes of {path}: {error}') from error
    if not isinstance(listed, dict):
        raise ConfigError(f'{path} must hold an object with boxes by camera')

    def blur(image: ImageRgb, camera: str, stamp_ns: int) -> ImageRgb:
        boxes = listed.get(camera)
        if isinstance(boxes, dict):
            boxes = boxes.get(str(stamp_ns))
        if boxes is None:
            raise ConfigError(f'{path} lists no boxes for {camera} at {stamp_ns}')
        return blur_boxes(image, boxes)

    return blur


def _split(name: str) -> tuple[str, str]:
    where, separator, attribute = name.rpartition(':')
    if not (separator and where and attribute):
        raise ConfigError(
            f"privacy is {name!r}; it must be like 'package.module:function' or "
            "'path/to/file.py:function'"
        )
    return where, attribute


def _is_file(where: str) -> bool:
    return where.endswith('.py') or '/' in where


def _from_package(where: str, name: str) -> ModuleType:
    return _run(lambda: importlib.import_module(where), name)


def _from_file(path: Path, name: str) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f'privacy {name!r}: there is no file {path}')
    # The name must be importable text and unlike any module's; dataclasses look it up.
    key = 'bev_privacy_' + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    spec = importlib.util.spec_from_file_location(key, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f'privacy {name!r}: {path} is no Python file')
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    sys.modules[key] = module

    def run() -> ModuleType:
        loader.exec_module(module)
        return module

    return _run(run, name)


def _run(import_it: Callable[[], ModuleType], name: str) -> ModuleType:
    """Import a user's code: whatever goes wrong there becomes one line."""
    try:
        return import_it()
    except (Exception, SystemExit) as error:
        text = ' '.join(str(error).split())
        raise ConfigError(f'privacy {name!r}: {type(error).__name__}: {text}') from error


def _cells(pixels: ImageRgb) -> ImageRgb:
    height, width = pixels.shape[:2]
    # Cells of about the same width and height, fewer than there are pixels.
    cell_px = max(min(height, width) / _CELLS, max(height, width) / _MAX_CELLS)
    columns, rows = (max(min(math.floor(n / cell_px), n // 2), 1) for n in (width, height))
    coarse: Any = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA)
    coarse = coarse // _LEVELS * _LEVELS + _LEVELS // 2
    cells = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
    blended: ImageRgb = np.asarray(
        cv2.GaussianBlur(cells, (0, 0), cell_px / 2, borderType=cv2.BORDER_REPLICATE), np.uint8
    )
    return blended
