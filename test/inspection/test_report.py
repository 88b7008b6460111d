"""Text, JSON and HTML of the same subjects, and the command line."""

from __future__ import annotations

import base64
import json
import re
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
from test.inspection.defects import CONFIG, each, write


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
    assert 'warning BAG010  /camera/front/image_raw/compressed: 1 gaps' in out
    assert re.search(
        r'^frames: 1[0-9] with --every 2m \(30 sets, 3[0-9] m, 1 calibration\)', out, re.M
    )
    assert 'suggested: bev convert --max-spread 0.011' in out
    assert 'sync.offsets_s: [0.005, 0, 0.01]' in out
    assert out.endswith('0 errors, 1 warning\n')


def test_suggestions_are_options_of_convert_and_of_the_node(bag, tmp_path):
    (subject,) = inspect_paths([bag], CONFIG)
    suggested = subject.facts['sync']['suggested']
    from bev_training.convert_options import config_of

    words = f'{suggested["convert"]} {suggested["convert_offsets"]}'.split()
    config = config_of(parsed(['inspect', str(bag), *words]))
    assert config.offsets_s == {'front': 0.005, 'front_left': 0, 'front_right': 0.01}
    assert config.max_spread_s == 0.011
    tight = replace(CONFIG, max_spread_s=0.011)
    (again,) = inspect_paths([bag], tight)
    assert again.facts['sync']['dropped'] == {}


def parsed(arguments):
    from bev_training.cli import _parser

    return _parser().parse_args(arguments)


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
        f'00{i}.png' for i in range(4)
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
