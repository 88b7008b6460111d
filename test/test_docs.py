"""What README and docs say exists: links, parameters, commands, make targets."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from bev_training.cli import _parser

DOCUMENTS = ['README.md', 'pip_ros/README.md', 'test/golden/README.md', 'docs']


def _verbs() -> tuple[str, ...]:
    return tuple(next(a.choices for a in _parser()._actions if getattr(a, 'choices', None)))


def documents(repository: Path) -> list[Path]:
    paths = [repository / name for name in DOCUMENTS]
    return [q for p in paths for q in (sorted(p.glob('*.md')) if p.is_dir() else [p])]


def test_links_lead_somewhere(repository: Path) -> None:
    broken = []
    for document in documents(repository):
        for target in re.findall(r'\]\(([^)#\s]+)[^)]*\)', document.read_text()):
            if '://' not in target and not (document.parent / target).exists():
                broken.append(f'{document.relative_to(repository)}: {target}')
    assert not broken


def test_readme_names_every_parameter(repository: Path) -> None:
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    from bev_perception.ros.params import BevNodeParams, ros_name

    text = (repository / 'README.md').read_text()
    table = text[text.index('### Parameters') : text.index('## Read on')]
    rows = [row.split('|')[1] for row in table.splitlines() if row.startswith('| `')]
    named = {name for row in rows for name in re.findall(r'`([\w.]+)`', row)}
    assert named == {ros_name(f.name) for f in dataclasses.fields(BevNodeParams)}


def test_commands_that_are_named_exist(repository: Path) -> None:
    verbs = _verbs()
    makefile = (repository / 'Makefile').read_text()
    for document in documents(repository):
        text = document.read_text()
        for verb in re.findall(r'`(?:\.venv/bin/)?bev ([a-z]+)', text):
            assert verb in verbs, f'{document.name}: bev {verb}'
        code = re.findall(r'`([^`\n]+)`|^ *(make [a-z-]+)(?=$|  | &&)', text, re.M)
        for target in re.findall(r'\bmake ([a-z-]+)', '\n'.join(map(''.join, code))):
            assert re.search(rf'^{target}:', makefile, re.M), f'{document.name}: make {target}'
        for script in re.findall(r'\b(benchmarks/\w+\.py)', text):
            assert (repository / script).exists(), f'{document.name}: {script}'


def test_every_verb_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    from bev_training.cli import main

    for verb in _verbs():
        with pytest.raises(SystemExit) as stopped:
            main([verb, '--help'])
        assert stopped.value.code == 0
        named = {'preview': 'DRIVE', 'inspect': 'PATH', 'label': 'FRAMES'}.get(verb, 'OUT')
        assert named in capsys.readouterr().out, verb
    with pytest.raises(SystemExit) as stopped:
        main(['fly'])
    assert stopped.value.code == 2
