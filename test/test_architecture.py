"""Who may import whom, and what no source file may contain. Reads every file's syntax tree."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE_FOLDERS = ('bev_perception', 'bev_training', 'benchmarks', 'launch', 'pip_ros')
SOURCES = sorted(
    path
    for folder in SOURCE_FOLDERS
    for path in (ROOT / folder).rglob('*.py')
    if not {'build', 'install', '__pycache__'} & set(path.parts)
)
OURS = ('bev_perception', 'bev_training')
MAX_LINES = 400

# Core modules that must start without torch: they run in tools that only read recordings.
TORCH_FREE = (
    'errors', 'shapes', 'geometry', 'views', 'messages', 'transforms', 'sync', 'occupancy'
)  # fmt: skip
ROS_PACKAGES = {
    'ament_index_python', 'builtin_interfaces', 'cv_bridge', 'launch', 'launch_ros',
    'lifecycle_msgs', 'message_filters', 'rcl_interfaces', 'rclpy', 'rosbag2_py',
    'rosidl_runtime_py', 'sensor_msgs_py', 'tf2_py', 'tf2_ros',
}  # fmt: skip


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def is_or_below(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + '.') for package in packages)


def is_ros(module: str) -> bool:
    top = module.split('.')[0]
    return top in ROS_PACKAGES or top.endswith('_msgs')


def imports_of(source: str, module: str, is_package: bool) -> set[str]:
    """Every module that a file imports, also in functions; `from a import b` gives a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:  # relative
                package = module.split('.') if is_package else module.split('.')[:-1]
                package = package[: len(package) - node.level + 1]
                base = '.'.join([*package, *([base] if base else [])])
            found |= {base} | {f'{base}.{alias.name}' for alias in node.names}
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func)
            in ('__import__', 'import_module', 'importlib.import_module')
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            found.add(str(node.args[0].value))
    return found


def forbidden(module: str, imported: str) -> str | None:
    """Why `module` may not import `imported`; None where it may."""
    in_ros, in_training = is_or_below(module, 'bev_perception.ros'), is_or_below(module, OURS[1])
    in_core = is_or_below(module, OURS[0]) and not in_ros
    core_part = module.removeprefix('bev_perception.')
    ours = is_or_below(imported, *OURS)
    checks = [
        (in_core and is_ros(imported), 'core knows no ROS'),
        (in_core and is_or_below(imported, 'bev_perception.ros'), 'core knows no shell'),
        (in_core and is_or_below(imported, 'bev_training'), 'core knows no shell'),
        (in_ros and is_or_below(imported, 'bev_training'), 'the vehicle does not train'),
        (in_training and is_ros(imported), 'training runs without ROS'),
        (in_training and is_or_below(imported, 'bev_perception.ros'), 'training runs without ROS'),
        (
            is_or_below(module, 'bev_perception.geometry')
            and ours
            and not is_or_below(
                imported,
                'bev_perception.errors',
                'bev_perception.shapes',
                'bev_perception.geometry',
            ),
            'geometry knows errors, shapes and itself',
        ),
        (core_part in ('errors', 'shapes') and ours, 'errors and shapes know nothing of ours'),
        (
            in_core
            and is_or_below(core_part, *TORCH_FREE)
            and is_or_below(imported, 'torch', 'torchvision', 'timm'),
            'this part promises to need no torch',
        ),
    ]
    return next((reason for broken, reason in checks if broken), None)


def id_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_source = pytest.mark.parametrize('path', SOURCES, ids=id_of)


@each_source
def test_imports_follow_the_arrows(path):
    module = module_of(path)
    # `from bev_perception import x` names the package itself too, which says nothing.
    imported = imports_of(path.read_text(), module, path.stem == '__init__') - {'bev_perception'}
    broken = {name: forbidden(module, name) for name in imported if forbidden(module, name)}
    assert not broken


@each_source
def test_file_is_short_and_named_after_what_it_holds(path):
    assert path.stem not in ('utils', 'util', 'misc', 'common', 'helpers')
    assert path.parent.name not in ('utils', 'util', 'misc', 'common', 'helpers')
    lines = path.read_text().count('\n')
    assert lines <= MAX_LINES, f'{id_of(path)} has {lines} lines'


def swallows_errors(handler: ast.ExceptHandler) -> bool:
    """`except:` of any kind, and `except Exception: pass`."""
    if handler.type is None:
        return True
    caught = {ast.unparse(node) for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    silent = all(
        isinstance(node, ast.Pass)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in handler.body
    )
    return silent and bool(caught & {'Exception', 'BaseException'})


@each_source
def test_no_error_is_swallowed(path):
    tree = ast.parse(path.read_text())
    lines = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and swallows_errors(node)
    ]
    assert not lines


# --- the promises hold when run, not only when read ---------------------------------------------

BLOCK = """
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.split('.')[0]
        if top in {blocked!r} or top.endswith('_msgs'):
            raise ImportError(f'{{name}} is blocked')
sys.meta_path.insert(0, Block())
for module in {modules!r}:
    importlib.import_module(module)
loaded = {{name.split('.')[0] for name in sys.modules}}
assert not loaded & {blocked!r}, loaded & {blocked!r}
"""


def import_with_blocked(modules: list[str], blocked: set[str]) -> None:
    script = BLOCK.format(modules=modules, blocked=blocked)
    done = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


CORE = [
    module_of(path)
    for path in SOURCES
    if is_or_below(module_of(path), 'bev_perception')
    and not is_or_below(module_of(path), 'bev_perception.ros')
]
CORE_TORCH_FREE = [
    module for module in CORE if is_or_below(module.removeprefix('bev_perception.'), *TORCH_FREE)
]


@pytest.mark.parametrize('module', CORE_TORCH_FREE)
def test_module_imports_without_torch_and_ros(module):
    import_with_blocked([module], {'torch', 'torchvision', 'timm'} | ROS_PACKAGES)


def test_core_imports_without_ros():
    pytest.importorskip('torch', reason='the model part of the core needs torch')
    import_with_blocked(CORE, ROS_PACKAGES)


# --- the checks themselves ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('module', 'source', 'reason'),
    [
        ('bev_perception.sync', 'import rclpy', 'core knows no ROS'),
        ('bev_perception.messages', 'from sensor_msgs.msg import Image', 'core knows no ROS'),
        ('bev_perception.messages', 'def f():\n    import cv_bridge', 'core knows no ROS'),
        ('bev_perception.predictor', 'from bev_perception.ros import params', 'no shell'),
        ('bev_perception.predictor', 'from . import ros', 'no shell'),
        ('bev_perception.predictor', 'from .ros.params import x', 'no shell'),
        ('bev_perception.model.lift', 'from ..ros import params', 'no shell'),
        ('bev_perception.preprocess', 'import bev_training.augment', 'no shell'),
        ('bev_perception.ros.bev_node', 'from bev_training import cli', 'does not train'),
        ('bev_training.data.convert', 'import rclpy.node', 'without ROS'),
        ('bev_training.cli', "importlib.import_module('rclpy')", 'without ROS'),
        ('bev_training.cli', 'from bev_perception import ros', 'without ROS'),
        ('bev_perception.geometry.camera', 'from bev_perception import views', 'geometry knows'),
        ('bev_perception.shapes', 'from bev_perception.errors import BevError', 'nothing of ours'),
        ('bev_perception.occupancy', 'import torch.nn', 'no torch'),
        ('bev_perception.geometry.grid', 'from torch import Tensor', 'no torch'),
        ('bev_perception.ros.bev_node', 'import rclpy\nfrom bev_perception import views', None),
        ('bev_perception.model.lift', 'import torch\nfrom . import config', None),
        ('bev_training.data.bags', 'from rosbags.typesys import Stores', None),
        ('bev_training.fit', 'from bev_perception.model import bev_model', None),
        ('bev_perception.geometry.grid', 'from bev_perception.errors import ConfigError', None),
    ],
)
def test_the_import_check_finds_what_it_should(module, source, reason):
    found = {forbidden(module, name) for name in imports_of(source, module, False)} - {None}
    assert bool(found) == (reason is not None)
    assert all(reason in text for text in found)


@pytest.mark.parametrize(
    ('handler', 'bad'),
    [
        ('except:\n    raise', True),
        ('except Exception:\n    pass', True),
        ('except (ValueError, BaseException):\n    ...', True),
        ('except Exception as error:\n    print(error)', False),
        ('except KeyError:\n    pass', False),
    ],
)
def test_the_except_check_finds_what_it_should(handler, bad):
    tree = ast.parse(f'try:\n    f()\n{handler}')
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    assert [swallows_errors(node) for node in handlers] == [bad]
