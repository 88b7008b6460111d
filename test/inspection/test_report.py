"""Text, JSON and HTML of the same subjects, and the command line."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from bev_training.cli import main
from bev_training.data.bag_inputs import find_bags
from bev_training.data.convert import convert_bag
from bev_training.inspection.report import inspect_paths, write_report
from bev_training.inspection.report_text import text_report
from bev_training.inspection.rules import RULES, SEVERITIES, rules_table
from test.inspection.defects import CONFIG, each, later, write


@pytest.fixture(scope='module')
def bag(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('bag') / 'lossy'
    return write(folder, each('front/image', lambda i, e: None if 9 < i < 14 else e))


@pytest.fixture(scope='module')
def drive(bag, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('drive') / 'out' / 'lossy'
    convert_bag(find_bags([bag])[0], folder, CONFIG)
    return folder


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main(['inspect', *(str(a) for a in arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def pictures(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [cv2.imdecode(np.frombuffer(base64.b64decode(f), np.uint8), 1) for f in found]


def test_text_says_what_matters(bag, capsys):
    code, out, err = run(capsys, bag, '--min-cameras', 2)
    assert (code, err) == (0, '')
    assert 'warning BAG010  /camera/front/image_raw/compressed: 1 gap ' in out
    assert re.search(
        r'^frames: 1[0-9] with --every 2m \(30 sets, 3[0-9] m, 1 calibration\)', out, re.M
    )
    assert '\n  with no other settings are more sets complete\n' in out  # what is lost is lost
    assert '\n  not read: /odom (Odometry)\n' in out
    assert 'left out or repaired' not in out
    assert out.endswith('0 errors, 1 warning\n')
    assert all(len(line) <= 100 for line in out.splitlines() if '--offsets' not in line)


def test_many_at_once_are_no_flood(bag, drive, capsys, tmp_path):
    for number in range(20):
        (tmp_path / f'drive-{number:04d}').symlink_to(drive)
    code, out, _ = run(capsys, tmp_path)
    assert code == 0
    lines = out.splitlines()
    assert len(lines) < 30
    assert max(map(len, lines)) <= 100
    assert lines[0] == f'20 below {tmp_path}/'
    assert sum(line.strip().startswith('drive-00') and line.endswith(' 1') for line in lines) == 20
    assert 'warning DRV032  frames lack a camera: in 20 of 20, such as' in lines
    assert lines[-1] == '0 errors, 20 warnings'


@pytest.mark.parametrize('verb', ['inspect --rules', 'inspect --rules --json', 'inspect BAG'])
def test_a_reader_that_leaves_ends_it_quietly(verb, bag):
    read, write_end = os.pipe()
    os.close(read)  # as `| head` does, only sooner
    words = verb.replace('BAG', str(bag)).split()
    done = subprocess.run(
        [sys.executable, '-m', 'bev_training.cli', *words],
        stdout=write_end,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write_end)
    assert done.stderr == b''
    assert done.returncode == 141


def test_another_broken_pipe_is_no_secret(monkeypatch, capsys):
    def broken(chosen):
        raise BrokenPipeError('of a worker')

    monkeypatch.setattr('bev_training.cli_inspect.inspect', broken)
    with capsys.disabled(), pytest.raises(BrokenPipeError, match='worker'):
        main(['inspect', '--rules'])


def test_exit_status(bag, drive, capsys, tmp_path):
    assert run(capsys, drive)[0] == 0
    code, out, err = run(capsys, bag, '--strict')
    assert code == 1
    assert 'BAG010' in err
    assert err.count('\n') == 1
    code, out, err = run(capsys, tmp_path / 'absent', bag)
    assert code == 1  # and the other is looked at all the same
    assert out.endswith('1 error, 1 warning\n')
    assert 'does not exist' in err
    with pytest.raises(SystemExit) as stopped:
        main(['inspect'])
    assert stopped.value.code == 2
    with pytest.raises(SystemExit) as stopped:
        main(['inspect', str(bag), '--every', 'never'])
    assert stopped.value.code == 2


def test_who_looks_is_not_told_twice(bag, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    with pytest.raises(SystemExit) as stopped:
        main(['inspect', str(bag), '--strict'])
    assert stopped.value.code == 1
    said = capsys.readouterr()
    assert said.err == ''
    assert 'BAG010' in said.out
    code, _, err = run(capsys, bag, '--strict', '--json')
    assert code == 1
    assert 'BAG010' in err


def test_topics_without_a_role_are_named(tmp_path):
    bag = write(tmp_path / 'bag', seconds=1.0)
    (subject,) = inspect_paths([bag], replace(CONFIG, cameras=('top', 'rear')))
    assert re.search(
        r'^  \(CameraInfo\) .* /camera/front/camera_info$', text_report([subject]), re.M
    )
    text = text_report([replace(subject, facts=_with_topics(subject.facts, 7))])
    assert (
        '  not read: /t0 (String), /t1 (String), /t2 (String), /t3 (String), /t4 (String)' in text
    )
    assert 'and 2 more' in text


def _with_topics(facts, count: int):
    others = [
        {'topic': f'/t{i}', 'type': 'std_msgs/msg/String', 'role': '', 'messages': 1}
        for i in range(count)
    ]
    camera = {'sizes_px': [], 'formats': {}, 'calibration': None, 'at_m': None}
    return {**facts, 'topics': others, 'cameras': {'front': camera}}


def test_what_is_left_out_is_told(tmp_path):
    again = [0.005, 0.010]  # two copies of one sweep

    def repeated(entries):
        sweep = [e for e in entries if e.topic == '/lidar/points'][5]
        return sorted([*entries, *(later(sweep, s) for s in again)], key=lambda e: e.time_ns)

    (subject,) = inspect_paths([write(tmp_path / 'bag', repeated)], CONFIG)
    assert '\n  left out or repaired: sweeps twice (2)\n' in text_report([subject])


def test_sets_of_nuscenes_are_refused_with_a_way_out(tmp_path):
    (tmp_path / 'v1.0-mini').mkdir()
    (tmp_path / 'v1.0-mini' / 'sample_data.json').write_text('[]')
    for path in (tmp_path, tmp_path / 'v1.0-mini'):
        (subject,) = inspect_paths([path], CONFIG)
        (finding,) = subject.findings
        assert finding.rule == 'DRV001'
        assert f'bev convert {tmp_path} BAGS --from nuscenes' in finding.text


def test_json_is_all_of_it(bag, drive, capsys):
    code, out, _ = run(capsys, bag, drive.parent, '--json', '--min-cameras', 2)
    assert code == 0
    found = json.loads(out, parse_constant=pytest.fail)
    assert (found['errors'], found['warnings']) == (0, 2)
    recording, converted = found['subjects']
    assert (recording['kind'], converted['kind']) == ('recording', 'drive')
    assert [f['rule'] for f in converted['findings']] == ['DRV032']
    first = recording['findings'][0]
    assert first['rule'] == 'BAG010'
    assert (first['severity'], first['where']) == ('warning', '/camera/front/image_raw/compressed')
    facts = recording['facts']
    assert facts['frames']['frames'] == converted['facts']['frames']
    rates = {t['topic']: t.get('hz') for t in facts['topics']}
    assert rates['/lidar/points'] == 20
    assert facts['sync']['complete'] == 26
    assert facts['cameras']['front']['calibration']['view_deg'] == pytest.approx(70, abs=0.1)


def test_the_page_needs_no_other_file(bag, drive, capsys, tmp_path):
    page = tmp_path / 'report.html'
    code, out, _ = run(capsys, bag, drive, '--html', page, '--min-cameras', 2)
    assert code == 0
    assert f'Report: {page}' in out
    text = page.read_text()
    shown = pictures(text)
    assert len(shown) == 8  # four of the recording, four of the drive
    assert all(image is not None and image.std() > 5 for image in shown)
    assert 'BAG010' in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    again = tmp_path / 'again.html'
    run(capsys, bag, drive, '--html', again, '--min-cameras', 2)
    assert again.read_bytes() == page.read_bytes()


def test_report_of_a_conversion(drive, tmp_path):
    write_report(tmp_path / 'report.html', [drive])
    assert len(pictures((tmp_path / 'report.html').read_text())) == 4


def test_plots_as_files(bag, capsys, tmp_path):
    code, _, _ = run(capsys, bag, '--png', tmp_path / 'plots')
    assert code == 0
    assert sorted(p.name for p in (tmp_path / 'plots').iterdir()) == [
        f'00{i}_{bag.name}.png' for i in range(4)
    ]


def test_names_are_escaped(tmp_path):
    bad = tmp_path / '<b>&.mcap'
    bad.write_bytes(b'no')
    write_report(tmp_path / 'report.html', [bad])
    text = (tmp_path / 'report.html').read_text()
    assert '<b>&' not in text
    assert '&lt;b&gt;&amp;.mcap' in text
    assert 'not readable' in text_report(inspect_paths([bad]))


def test_rules_are_printed(capsys):
    code, out, _ = run(capsys, '--rules')
    assert code == 0
    assert all(name in out for name in RULES)
    _, out, _ = run(capsys, '--rules', '--json')
    assert json.loads(out)['BAG001']['severity'] == 'error'


def test_rules_are_well_formed(repository):
    for name, rule in RULES.items():
        assert re.fullmatch(r'(BAG|DRV)\d{3}', name)
        assert rule.severity in SEVERITIES
        assert '|' not in rule.title + rule.advice
    assert list(RULES) == sorted(RULES)
    assert rules_table() in (repository / 'docs' / 'inspect.md').read_text()
