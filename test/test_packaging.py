"""What users get: the pip wheel, the colcon build, the shipped files, clear errors at start."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bev_perception import resources
from bev_perception.errors import BevError, ConfigError

ROOT = Path(__file__).resolve().parents[1]
EXECUTABLES = ('bag_player', 'bag_recorder', 'bev_node')
LEFT_OUT = ('.*', '__pycache__', 'build', 'install', 'log', 'dist', 'out', '*.egg-info')
HAS_CHECKOUT = (ROOT / 'setup.py').is_file()

pytestmark = pytest.mark.skipif(not HAS_CHECKOUT, reason='runs in a checkout')


def run(*command: str | Path, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=100, **kwargs
    )


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what leads to another copy of the package."""
    left_out = ('PYTHONPATH', 'AMENT_PREFIX_PATH', 'COLCON_PREFIX_PATH')
    return {k: v for k, v in os.environ.items() if k not in left_out} | changes


@pytest.fixture(scope='session')
def copy_of_the_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build in: a build writes beside setup.py."""
    copy = tmp_path_factory.mktemp('src') / 'bev_perception'
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return copy


def setup_call() -> dict[str, ast.expr]:
    tree = ast.parse((ROOT / 'setup.py').read_text())
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    (call,) = (c for c in calls if getattr(c.func, 'id', '') == 'setup')
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def test_package_xml_and_setup_py_agree():
    package = ElementTree.parse(ROOT / 'package.xml').getroot()
    assert package.get('format') == '3'
    setup = setup_call()
    assert package.findtext('version') == ast.literal_eval(setup['version'])
    assert package.findtext('license') == ast.literal_eval(setup['license'])
    assert package.findtext('export/build_type') == 'ament_python'
    depends = {node.text for node in package.iter('exec_depend')}
    assert {'rclpy', 'message_filters', 'cv_bridge', 'tf2_msgs', 'launch_ros'} <= depends


def test_every_executable_has_a_module_and_a_script():
    entry_points = ast.literal_eval(setup_call()['entry_points'])['console_scripts']
    targets = dict(re.fullmatch(r'(\w+) = ([\w.]+):\w+', line).groups() for line in entry_points)
    assert set(targets) == {'bev', *EXECUTABLES}
    for name in EXECUTABLES:
        assert (ROOT / 'bev_perception' / 'ros' / f'{name}.py').is_file()
        script = ROOT / 'scripts' / name
        assert script.read_text().startswith('#!/usr/bin/env python3\n')
        assert os.access(script, os.X_OK)
    for module in targets.values():
        assert ROOT.joinpath(*module.split('.')).with_suffix('.py').is_file()


def test_every_folder_of_modules_is_a_package():
    for top in ('bev_perception', 'bev_training'):
        folders = {path.parent for path in (ROOT / top).rglob('*.py')}
        assert [str(f) for f in sorted(folders) if not (f / '__init__.py').is_file()] == []


def test_lists_of_requirements_agree_with_the_constraints():
    def pins(path: Path) -> dict[str, str]:
        lines = [line for line in path.read_text().splitlines() if line and line[0] != '#']
        pairs = [line.split(';')[0].strip().split('==') for line in lines]  # without markers
        return {re.sub(r'\[.*\]', '', n).lower().replace('_', '-'): v for n, v in pairs}

    constraints = pins(ROOT / 'requirements' / 'constraints.txt')
    lists = [p for p in (ROOT / 'requirements').glob('*.txt') if p.stem != 'constraints']
    assert lists
    for path in lists:
        for name, version in pins(path).items():
            assert constraints.get(name) == version, f'{path.name}: {name}'


def test_a_shipped_file_is_found_in_the_checkout():
    path = resources.config_path('bev_node.yaml')
    assert path.is_file()
    assert resources.launch_path('bev.launch.py').is_file()


def test_a_missing_file_is_named_with_where_it_was_sought():
    with pytest.raises(ConfigError, match=r'config/nowhere\.yaml .* looked in .*/config'):
        resources.config_path('nowhere.yaml')
    assert issubclass(ConfigError, BevError)


@pytest.mark.parametrize('module', ['rclpy', 'torch'])
def test_an_executable_names_the_interpreter_and_the_remedy(module):
    code = (
        f"import sys; sys.modules['{module}'] = None\n"
        'from bev_perception.ros.executables import bev_node; sys.exit(bev_node())'
    )
    done = run(sys.executable, '-c', code, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.count('\n') == 1
    assert f'bev_node: {sys.executable} has no module {module}: ' in done.stderr
    assert {'rclpy': 'setup.bash', 'torch': 'pip install torch'}[module] in done.stderr


def test_a_script_run_by_a_foreign_interpreter_says_so():
    done = run(sys.executable, '-I', '-S', ROOT / 'scripts' / 'bag_player')
    assert done.returncode == 1
    assert done.stderr.startswith(f'bag_player: {sys.executable} has no module bev_perception: ')


@pytest.mark.parametrize(
    ('ros_distro', 'advice'),
    [('', 'make PYTHON='), ('jazzy', 'ROS 2 jazzy is sourced: build with colcon')],
)
def test_another_python_version_is_refused_in_one_line(tmp_path, ros_distro, advice):
    python = tmp_path / 'python3.12'
    python.write_text('#!/bin/sh\necho 3.12\n')
    python.chmod(0o755)
    install = ROOT / 'pip_ros' / 'install.sh'
    variables = environment(PYTHON=str(python), ROS_DISTRO=ros_distro)
    done = run(install, tmp_path / 'venv', env=variables)
    assert done.returncode == 1
    assert done.stdout == ''
    assert done.stderr.count('\n') == 1
    assert f'Needs Python 3.11 ({python} is 3.12' in done.stderr
    assert advice in done.stderr


@pytest.mark.slow
def test_wheel_in_another_environment(copy_of_the_tree, tmp_path):
    pip = (sys.executable, '-m', 'pip', '--disable-pip-version-check')
    offline = ('--no-deps', '--no-index')
    built = run(*pip, 'wheel', *offline, '--no-build-isolation', '-w', tmp_path, copy_of_the_tree)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob('*.whl')
    venv = tmp_path / 'venv'
    assert run(sys.executable, '-m', 'venv', '--without-pip', venv).returncode == 0
    python = venv / 'bin' / 'python'
    installed = run(*pip, '--python', python, 'install', *offline, wheel)
    assert installed.returncode == 0, installed.stderr

    code = "from bev_perception.resources import config_path as c; print(c('bev_node.yaml'))"
    found = run(python, '-c', code, env=environment(), cwd=tmp_path)
    assert found.stdout.strip() == str(venv / 'share/bev_perception/config/bev_node.yaml')
    path = f'{venv / "bin"}{os.pathsep}{os.environ.get("PATH", os.defpath)}'
    for name in EXECUTABLES:
        # no rclpy in this environment: the executables start, and say so
        for script in (venv / 'lib' / 'bev_perception' / name, venv / 'bin' / name):
            started = run(script, env=environment(PATH=path), cwd=tmp_path)
            assert re.match(f'{name}: {python}3? has no module .*\n$', started.stderr)
    assert (venv / 'bin' / 'bev').is_file()


@pytest.mark.slow
@pytest.mark.parametrize('option', [[], ['--symlink-install']])
def test_colcon_build(copy_of_the_tree, tmp_path, option):
    colcon = shutil.which('colcon', path=str(Path(sys.executable).parent)) or shutil.which(
        'colcon'
    )
    if colcon is None:
        pytest.skip('colcon is not installed')
    built = run(
        colcon, 'build', '--base-paths', copy_of_the_tree, *option, cwd=tmp_path, env=environment()
    )
    assert built.returncode == 0, built.stderr
    prefix = tmp_path / 'install' / 'bev_perception'
    assert (prefix / 'share/ament_index/resource_index/packages/bev_perception').is_file()
    for name in (*EXECUTABLES, 'bev'):
        assert os.access(prefix / 'lib' / 'bev_perception' / name, os.X_OK)
    assert not (tmp_path / 'install' / 'tf2_msgs').exists()

    code = "from bev_perception.resources import config_path as c; print(c('bev_node.yaml'))"
    source = f'. {prefix}/share/bev_perception/package.sh && exec {sys.executable} -c "{code}"'
    variables = environment(COLCON_CURRENT_PREFIX=str(prefix), AMENT_PREFIX_PATH=str(prefix))
    found = run('sh', '-c', source, env=variables, cwd=tmp_path)
    expected = copy_of_the_tree if option else prefix / 'share/bev_perception'
    assert found.stdout.strip() == str(expected / 'config/bev_node.yaml'), found.stderr
