"""Labels of a drive's frames in a folder: class grids and boxes, any frame by number.

    labels.json     {"format": "bev labels", "version": 1, "classes", "grid", "frames", "objects",
                    "source", "facts"}
    positive.npy    (F, C, Y, ceil(X / 8)) uint8: `LabelGrids.positive`, np.packbits along x
    hidden.npy      likewise
    known.npy       (F, Y, ceil(X / 8)) uint8 likewise; missing where everything is known
    labelled.npy    (F,) bool: frames without labels are no samples
    boxes.npy       (N, 10) float64: position of the name in "objects", x, y, z of the middle,
                    length, width, height, yaw, visibility, lidar points
    box_frame.npy   (F + 1,) int64: the rows of frame f are box_frame[f] : box_frame[f + 1]

`FRAMES/NAME/labels` holds the labels of the drive `FRAMES/NAME`, F is its number of frames.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from bev_perception.errors import BagError, BevError, ConfigError
from bev_perception.geometry.grid import BevGrid
from bev_perception.shapes import AnyArray, Index, Mask
from bev_training.data.array_file import ArrayFile
from bev_training.data.drive_folder import LABELS
from bev_training.data.label_checks import box_problem, grid_problem
from bev_training.data.paths import is_local
from bev_training.data.sample import GroundBoxes, LabelGrids
from bev_training.folders import entries, replaced_folder

FORMAT = 1
_KIND, _HEAD = 'bev labels', 'labels.json'
_BOX_COLUMNS = 10
Labels: TypeAlias = tuple[LabelGrids | None, GroundBoxes | None]


def write_labels(
    folder: Path,
    classes: Sequence[str],
    grid: BevGrid,
    frames: Iterable[Labels],
    *,
    source: str,
    facts: Mapping[str, str] | None = None,
    replace: bool = False,
) -> int:
    """Write the labels of a drive; the folder appears whole or not at all.

    Args:
        folder: `FRAMES/NAME/labels`.
        classes: names along axis C; any names, see `label_classes` for those that others know.
        grid: of the labels; its heights do not matter.
        frames: of every frame of the drive, in order, the grids and the objects. A frame without
            grids is no sample; without objects it has none. They are taken one at a time.
        source: where the labels come from, in words.
        facts: what else is known of the drive, such as its weather.
        replace: whether labels that are there already are replaced.

    Returns:
        The number of frames with labels.

    Raises:
        BagError: there are labels already, or the folder cannot be written.
        ConfigError: grids or boxes of a frame do not fit the classes or the grid.
    """
    classes = tuple(classes)
    if not classes or len(set(classes)) < len(classes):
        raise ConfigError(f'{folder}: classes are {list(classes)}; each must be named once')
    if not is_local(folder):
        raise not_local(folder)
    if entries(folder) and not (replace and (folder / _HEAD).exists()):
        name = entries(folder)[0].name
        holds = 'labels already' if (folder / _HEAD).exists() else f'{name}, but no {_HEAD}'
        raise BagError(f'{folder} holds {holds}; remove it, or write elsewhere')
    _, rows, columns = grid.shape
    packed, objects = (columns + 7) // 8, dict[str, int]()
    labelled, box_frame, all_known = bytearray(), [0], True
    with replaced_folder(folder) as work, ExitStack() as stack:

        def begin(name: str, dtype: type, *shape: int) -> ArrayFile:
            return stack.enter_context(ArrayFile(work / f'{name}.npy', np.dtype(dtype), shape))

        positive = begin('positive', np.uint8, len(classes), rows, packed)
        hidden = begin('hidden', np.uint8, len(classes), rows, packed)
        known = begin('known', np.uint8, rows, packed)
        table = begin('boxes', np.float64, _BOX_COLUMNS)
        nothing = np.zeros((1, len(classes), rows, packed), np.uint8)
        for number, (grids, boxes) in enumerate(frames):
            problem = None if grids is None else grid_problem(grids, classes, (rows, columns))
            problem = problem or (None if boxes is None else box_problem(boxes))
            if problem:
                raise ConfigError(f'{folder}: frame {number}: {problem}')
            labelled.append(grids is not None)
            positive.add(nothing if grids is None else np.packbits(grids.positive, -1)[None])
            hidden.add(nothing if grids is None else np.packbits(grids.hidden, -1)[None])
            known.add(nothing[:, 0] if grids is None else np.packbits(grids.known, -1)[None])
            all_known = all_known and (grids is None or bool(grids.known.all()))
            if boxes is not None:
                table.add(_as_table(boxes, objects))
            box_frame.append(box_frame[-1] + (0 if boxes is None else len(boxes.names)))
        stack.close()  # before the files are counted as whole
        if all_known:
            (work / 'known.npy').unlink()
        np.save(work / 'labelled.npy', np.array(labelled, np.uint8) > 0)
        np.save(work / 'box_frame.npy', np.array(box_frame, np.int64))
        head = {
            'format': _KIND,
            'version': FORMAT,
            'classes': list(classes),
            'grid': asdict(grid),
            'frames': len(labelled),
            'objects': list(objects),
            'source': source,
            'facts': dict(facts or {}),
        }
        (work / _HEAD).write_text(json.dumps(head, indent=1) + '\n')
    return sum(labelled)


class LabelStore:
    """Labels that lie in a folder. Of its files, only what is asked for is read; none stays open.

    Attributes:
        folder: where they lie.
        classes: all that are labelled.
        grid: of the labels.
        objects: names of objects that boxes have.
        source: where the labels come from.
        facts: what else is known of the drive.
        labelled: (F,) which frames have labels.
    """

    def __init__(self, folder: Path) -> None:
        """Look at all files.

        Raises:
            BagError: something is missing, damaged or of another version.
        """
        self.folder = folder
        if not is_local(folder):
            raise not_local(folder)
        head = _read_head(folder / _HEAD)
        try:
            self.classes: tuple[str, ...] = tuple(map(str, head['classes']))
            self.grid = BevGrid(**head['grid'])
            self.objects: tuple[str, ...] = tuple(map(str, head['objects']))
            self.source = str(head['source'])
            self.facts = {str(name): str(value) for name, value in head['facts'].items()}
            frames = int(head['frames'])
        except (KeyError, TypeError, ValueError, AttributeError, BevError) as error:
            said = f'{type(error).__name__}: {error}'
            raise BagError(
                f'{folder / _HEAD} is damaged ({said}); write the labels again'
            ) from error
        _, rows, columns = self.grid.shape
        packed = (columns + 7) // 8
        self._shapes: dict[str, tuple[type, tuple[int, ...]]] = {
            'positive': (np.uint8, (frames, len(self.classes), rows, packed)),
            'hidden': (np.uint8, (frames, len(self.classes), rows, packed)),
            'known': (np.uint8, (frames, rows, packed)),
            'labelled': (np.bool_, (frames,)),
            'box_frame': (np.int64, (frames + 1,)),
            'boxes': (np.float64, (-1, _BOX_COLUMNS)),
        }
        self._all_known = not (folder / 'known.npy').exists()
        arrays = {
            name: self._mapped(name)
            for name in self._shapes
            if name != 'known' or not self._all_known
        }
        self._begins = {name: (each.offset, _size(each.filename)) for name, each in arrays.items()}
        self.labelled: Mask = np.array(arrays['labelled'])
        box_frame, boxes = arrays['box_frame'], arrays['boxes']
        if box_frame[0] != 0 or (np.diff(box_frame) < 0).any() or box_frame[-1] != len(boxes):
            raise BagError(
                f'{folder}/box_frame.npy does not rise from 0 to {len(boxes)}, the rows of '
                'boxes.npy; write the labels again'
            )

    def __len__(self) -> int:
        return len(self.labelled)

    def check_length(self, frames: int) -> None:
        """Make sure that these are the labels of a drive with so many frames.

        Raises:
            BagError: they are of more or fewer.
        """
        if len(self) != frames:
            raise BagError(
                f'{self.folder} has {len(self)} frames, the drive has {frames}; '
                'write the labels again'
            )

    def check(self, classes: Sequence[str], grid: BevGrid) -> None:
        """Make sure that these classes can be given in this grid.

        Raises:
            ConfigError: there is no such class, or the grid is no part of the labels' grid.
        """
        self._layers(classes)
        self._window(grid)

    def grids(self, frame: int, classes: Sequence[str], grid: BevGrid) -> LabelGrids:
        """Return the grids of a frame.

        Args:
            frame: its number.
            classes: some of `self.classes`, in any order.
            grid: of the same cells as `self.grid`, or a part of them; heights do not matter.

        Raises:
            ConfigError: there is no such class, or the grid is no part of the labels' grid.
            BagError: the frame has no labels, or a file has changed.
            IndexError: there is no such frame.
        """
        layers, (rows, columns) = self._layers(classes), self._window(grid)
        frame = range(len(self))[frame]
        if not self.labelled[frame]:
            raise BagError(f'{self.folder}: frame {frame} has no labels')

        def unpacked(packed: AnyArray) -> Mask:
            bits = np.unpackbits(packed[..., rows, :], -1, self.grid.shape[2])
            return np.ascontiguousarray(bits[..., columns]).view(bool)

        size = grid.shape[1:]
        return LabelGrids(
            classes=tuple(classes),
            positive=unpacked(self._rows('positive', frame)[0, layers]),
            hidden=unpacked(self._rows('hidden', frame)[0, layers]),
            known=np.ones(size, bool)
            if self._all_known
            else unpacked(self._rows('known', frame)[0]),
        )

    def boxes(self, frame: int) -> GroundBoxes:
        """Return the objects of a frame, also of those beside the grid.

        Raises:
            BagError: a file has changed or holds other names.
            IndexError: there is no such frame.
        """
        first, last = self._rows('box_frame', range(len(self))[frame], 2).tolist()
        rows = self._rows('boxes', first, last - first)
        names = rows[:, 0].astype(int)
        if len(rows) and not (0 <= names.min() and names.max() < len(self.objects)):
            raise BagError(
                f'{self.folder}/boxes.npy: frame {frame} names object {names.max()} of '
                f'{len(self.objects)}; write the labels again'
            )
        return GroundBoxes(
            names=tuple(self.objects[i] for i in names),
            center_m=rows[:, 1:4],
            size_m=rows[:, 4:7],
            yaw_rad=rows[:, 7],
            visibility=rows[:, 8],
            lidar_points=rows[:, 9].astype(np.int64),
        )

    def _layers(self, classes: Sequence[str]) -> Index:
        for name in classes:
            if name not in self.classes:
                raise ConfigError(
                    f'labels of {self.folder.parent} have no class {name!r}; they have '
                    f'{list(self.classes)}'
                )
        return np.array([self.classes.index(name) for name in classes], np.int64)

    def _window(self, grid: BevGrid) -> tuple[slice, slice]:
        """Return the rows and columns of a grid in the grid of the labels."""
        cell_m, found = self.grid.cell_m, []
        wanted = zip((grid.y_range_m, grid.x_range_m), grid.shape[1:], strict=True)
        there = zip((self.grid.y_range_m, self.grid.x_range_m), self.grid.shape[1:], strict=True)
        for ((low, _), count), ((from_low, _), cells) in zip(wanted, there, strict=True):
            first = (low - from_low) / cell_m
            same_cells = abs(first - round(first)) < 1e-6 and abs(grid.cell_m / cell_m - 1) < 1e-9
            if not same_cells or round(first) < 0 or round(first) + count > cells:
                raise ConfigError(
                    f'labels of {self.folder.parent} are of the grid {_said(self.grid)}; '
                    f'{_said(grid)} is no part of it'
                )
            found.append(slice(round(first), round(first) + count))
        return found[0], found[1]

    def _rows(self, name: str, first: int, count: int = 1) -> AnyArray:
        """Read rows of a file, which is as it was when it was opened.

        Not through a map: one that is cut off meanwhile would end the process.
        """
        path, (begin, size) = self.folder / f'{name}.npy', self._begins[name]
        dtype, shape = self._shapes[name]
        each = math.prod(shape[1:])
        at = begin + first * each * np.dtype(dtype).itemsize
        try:
            with path.open('rb') as file:
                same = os.fstat(file.fileno()).st_size == size
                file.seek(at)
                array: AnyArray = np.fromfile(file, dtype, count * each)
        except OSError as error:
            raise BagError(f'{path} cannot be read: {error.strerror or error}') from error
        if not same or len(array) != count * each:
            raise BagError(f'{path} has changed since it was opened; open the labels again')
        return array.reshape(count, *shape[1:])

    def _mapped(self, name: str) -> np.memmap[Any, Any]:
        """Return a whole file, mapped, and make sure that it is what labels.json says."""
        path = self.folder / f'{name}.npy'
        dtype, shape = self._shapes[name]
        wanted = ', '.join('N' if size < 0 else str(size) for size in shape)
        try:
            array: np.memmap[Any, Any] = np.load(path, mmap_mode='r')
        except FileNotFoundError as error:
            raise BagError(f'{path} is missing; write the labels again') from error
        except (OSError, ValueError, EOFError) as error:
            said = ' '.join(str(error).split())
            raise BagError(f'{path} is damaged ({said}); write the labels again') from error
        fits = array.ndim == len(shape) and all(
            size in (-1, there) for size, there in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype != dtype or not array.flags.c_contiguous:
            raise BagError(
                f'{path} holds {array.dtype} {array.shape}, {_HEAD} says '
                f'{np.dtype(dtype)} ({wanted}); write the labels again'
            )
        return array


def _size(path: str | None) -> int:
    return os.stat(path or '').st_size


def labels_of(drive: Path) -> Path:
    """Return the folder of a drive's labels."""
    return drive / LABELS


def _said(grid: BevGrid) -> str:
    x, y = (f'{low:g} to {high:g}' for low, high in (grid.x_range_m, grid.y_range_m))
    return f'x {x} m, y {y} m, cells of {grid.cell_m:g} m'


def _read_head(path: Path) -> dict[str, Any]:
    try:
        head = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BagError(f'{path} is missing; write the labels again') from error
    except OSError as error:
        raise BagError(f'{path} cannot be read: {error.strerror or error}') from error
    except (ValueError, RecursionError) as error:
        raise BagError(f'{path} is damaged ({error}); write the labels again') from error
    if not isinstance(head, dict) or head.get('format') != _KIND:
        raise BagError(f'{path} is not of labels (format {_KIND!r})')
    if head.get('version') != FORMAT:
        raise BagError(
            f'{path} is version {head.get("version")}, this program reads {FORMAT}; '
            'write the labels again'
        )
    return head


def _as_table(boxes: GroundBoxes, objects: dict[str, int]) -> AnyArray:
    """Return boxes as rows of boxes.npy; names that are new are numbered."""
    numbers = [objects.setdefault(name, len(objects)) for name in boxes.names]
    columns = (boxes.center_m, boxes.size_m, boxes.yaw_rad, boxes.visibility, boxes.lidar_points)
    return np.column_stack([np.array(numbers, float), *columns]).astype(float)


def not_local(folder: Path) -> BagError:
    """Return what there is to say of labels in an object store."""
    return BagError(f'{folder}: labels need a folder on a disk; copy the drives to one')
