"""The suggested settings: they belong together, they can be copied, and they hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from bev_perception.sync import SyncConfig
from bev_training.data.bag_inputs import find_bags
from bev_training.data.convert import convert_bag
from bev_training.data.settings import KeyFrames
from bev_training.inspection.report import inspect_paths
from bev_training.inspection.report_text import text_report
from bev_training.inspection.suggestions import replay, suggest
from test.data.small_bag import SmallDrive, write_entries
from test.inspection.defects import CONFIG

NAMES = ('front_left', 'front', 'front_right', 'back_right', 'back', 'back_left')
ALL = replace(CONFIG, min_cameras=4, every=KeyFrames())
MS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Staggered(SmallDrive):
    """Six cameras fire one after the other, over 80 ms of a cycle of 100 ms."""

    def exposure_ns(self, camera: str, number: int) -> int:
        return self.start_ns + (100 * number + 16 * NAMES.index(camera)) * MS


@pytest.fixture(scope='module')
def bag(tmp_path_factory) -> Path:
    drive = Staggered(cameras=NAMES, seconds=2.0)
    return write_entries(tmp_path_factory.mktemp('bag') / 'staggered', drive.entries())


@pytest.fixture(scope='module')
def report(bag) -> str:
    return text_report(inspect_paths([bag], ALL))


def lines_with(report: str, start: str) -> list[str]:
    return [line.strip() for line in report.splitlines() if line.strip().startswith(start)]


def config_with(bag: Path, options: str):
    from bev_training.cli import _parser
    from bev_training.convert_options import config_of

    words = ['convert', *options.split(), '--every', 'all', str(bag), 'out']
    return config_of(_parser().parse_args(words))


def test_one_pair_of_lines_with_offsets_and_one_without(report):
    plain, tight = lines_with(report, '--')
    assert plain == '--max-spread 0.088'
    assert tight.endswith(' --max-spread 0.01')
    assert '--offsets front_left=0,front=0.016' in tight


@pytest.mark.parametrize('which', [0, 1])
def test_printed_options_give_complete_sets_only(which, bag, report, tmp_path):
    config = config_with(bag, lines_with(report, '--')[which])
    done = convert_bag(find_bags([bag])[0], tmp_path / 'out', config)
    assert done.frames == 20
    assert done.counts['sets_complete'] == 20
    assert 'sets_partial' not in done.counts
    (subject,) = inspect_paths([bag], config)
    assert not {f.rule for f in subject.findings} & {'BAG021', 'BAG022', 'BAG023', 'BAG024'}


def test_without_them_images_are_cut_off(bag):
    (subject,) = inspect_paths([bag], ALL)
    (finding,) = (f for f in subject.findings if f.rule == 'BAG023')
    assert finding.text.endswith('use --max-spread 0.088')


def test_printed_parameters_are_those_of_the_node(report):
    plain, tight = (yaml.safe_load(line)['sync'] for line in lines_with(report, 'sync: {'))
    assert plain == {'max_spread_s': 0.088}
    assert list(tight) == ['max_spread_s', 'offsets_s']
    assert len(tight['offsets_s']) == 6
    # An integer among them is of another type for ROS, which refuses the file.
    assert {type(v) for v in (*tight['offsets_s'], tight['max_spread_s'])} == {float}
    (order,) = lines_with(report, '# in the order of cameras: ')
    cameras = yaml.safe_load(order.partition('cameras: ')[2])
    offsets = dict(zip(cameras, tight['offsets_s'], strict=True))
    assert offsets == pytest.approx({n: 0.016 * i for i, n in enumerate(NAMES)}, abs=2e-4)


def test_offsets_that_are_in_force_stay_in_the_first_suggestion(bag):
    given = {name: 0.016 * i for i, name in enumerate(NAMES)}
    given['back'] += 0.03  # wrong
    (subject,) = inspect_paths([bag], replace(ALL, offsets_s=given, max_spread_s=0.02))
    first, tight = subject.facts['sync']['suggested']
    assert config_with(bag, first['convert']).offsets_s == pytest.approx(given)
    assert tight['max_spread_s'] == 0.01


def stamps(jitter_ms: float, seed: int = 0) -> list[tuple[str, int]]:
    rng = np.random.default_rng(seed)
    return [
        (name, 10**18 + int((100 * n + 16 * i + rng.uniform(0, jitter_ms)) * MS))
        for n in range(400)
        for i, name in enumerate(NAMES)
    ]


def test_spread_with_offsets_is_measured_with_them():
    config = SyncConfig(cameras=NAMES, min_cameras=4, max_spread_s=0.065)
    seen = stamps(10.0)
    plain, tight = suggest(seen, config, replay(seen, config))
    assert 0.08 < plain.max_spread_s < 0.1
    assert 0.008 < tight.max_spread_s < 0.014
    assert plain.complete == plain.sets == 400
    assert tight.complete > 395
    both = replace(config, offsets_s=tight.offsets_s, max_spread_s=tight.max_spread_s)
    assert replay(stamps(10.0, seed=1), both).complete > 395  # on another day too


def test_synchronous_cameras_need_no_offsets():
    config = SyncConfig(cameras=NAMES, min_cameras=4, max_spread_s=0.065)
    seen = [(name, 10**18 + 100 * n * MS) for n in range(50) for name in NAMES]
    assert suggest(seen, config, replay(seen, config)) == ()


@pytest.mark.parametrize(('limit_s', 'which'), [(0.065, ()), (0.045, ('offsets',))])
def test_settings_that_fit_stay(limit_s, which):
    """42 ms of 65 are fine; of 45 they are close, where a tighter limit alone is no help."""
    config = SyncConfig(cameras=NAMES[:4], min_cameras=4, max_spread_s=limit_s)
    seen = [
        (name, 10**18 + (100 * n + 14 * i) * MS)
        for n in range(50)
        for i, name in enumerate(NAMES[:4])
    ]
    found = suggest(seen, config, replay(seen, config))
    assert tuple('offsets' for one in found if one.offsets_s) == which
    assert len(found) == len(which)
    assert all(one.complete == 50 for one in found)


def test_lost_images_do_not_come_back_with_other_settings():
    config = SyncConfig(cameras=NAMES, min_cameras=4, max_spread_s=0.125)
    seen = [one for i, one in enumerate(stamps(1.0)) if i % 50]
    assert suggest(seen, config, replay(seen, config)) == ()


def test_few_sets_suggest_nothing():
    config = SyncConfig(cameras=NAMES, min_cameras=4)
    assert suggest(stamps(0.0)[:30], config, replay(stamps(0.0)[:30], config)) == ()
