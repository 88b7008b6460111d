"""Damaged recordings through the whole conversion: the same frames, fewer with a count that says
so, or one clear line and nothing left behind. `benchmarks/damaged_bags.py` tries thousands.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bev_perception.errors import BagError
from bev_training import messages
from bev_training.data.bag_inputs import BagSource
from bev_training.data.bag_reader import Recording
from bev_training.data.convert import convert_bag
from bev_training.data.drives import Drive
from test.data.damage import CONFIG, FILE_KINDS, KINDS, STORAGES, Workbench, cases, without_summary
from test.data.small_bag import Entry, SmallDrive, changed, write_entries
from test.factories import make_camera

COUNT = 50
_MAX_SECONDS = 10.0


def test_fifty_damaged_recordings(tmp_path: Path) -> None:
    bench, verdicts = Workbench(tmp_path), Counter[str]()
    tried = cases(COUNT, 1)
    for case in tried:
        outcome = bench.attempt(case, decode=False)
        verdicts[outcome.verdict] += 1
        assert outcome.verdict in ('whole', 'told', 'content', 'refused'), (case, outcome)
        assert outcome.seconds < _MAX_SECONDS, case
    assert {case.storage for case in tried} == set(STORAGES)
    assert {case.kind for case in tried} == set(KINDS)
    assert verdicts['refused'] >= 5 and verdicts['told'] >= 5, verdicts


def test_the_workbench_sees_a_loss(tmp_path: Path) -> None:
    """Whatever finds no fault must be able to."""
    bench = Workbench(tmp_path)
    bench._reference(False)  # what is wanted
    wanted, usual = bench._wanted[False]
    bench._wanted[False] = {**wanted, 'frames': [*wanted['frames'], 1]}, usual
    whole = [c for c in cases(400, 0) if c.kind in FILE_KINDS and not c.raw and c.kind == 'bytes']
    outcomes = [bench.attempt(case).verdict for case in whole[:8]]
    assert 'SILENT' in outcomes
    assert 'whole' not in outcomes


def convert(bag: Path) -> Drive:
    out = bag.with_name(f'{bag.name}.drive')
    convert_bag(BagSource(name='bag', path=bag), out, CONFIG)
    drive = Drive(out)
    assert not list(drive.check(decode=True))
    return drive


def test_an_mcap_without_index_that_leads_past_its_end(tmp_path: Path) -> None:
    """Its reader would stop at the damage and lose all that follows."""
    bag = write_entries(tmp_path / 'bag', SmallDrive(seconds=0.5).entries())
    (file,) = bag.glob('*.mcap')
    data = without_summary(file.read_bytes())
    file.write_bytes(data)
    with Recording(bag) as recording:  # undamaged it can be read
        complete = sum(1 for _ in recording.messages(recording.topics))
    assert complete == len(SmallDrive(seconds=0.5).entries())
    middle = len(data) // 2
    file.write_bytes(data[:middle] + bytes(4096) + data[middle + 4096 :])
    with (
        pytest.raises(BagError, match='it has no index, and a record before byte'),
        Recording(bag),
    ):
        pass


def of_topic(entries: list[Entry], topic: str) -> list[int]:
    return [i for i, entry in enumerate(entries) if entry.topic == topic]


def test_one_camera_info_of_another_size(tmp_path: Path) -> None:
    """After good ones it costs images until the next, not the recording."""
    entries = SmallDrive().entries()
    hit = of_topic(entries, '/camera/front/camera_info')[4]
    stamp = entries[hit].time_ns - 30_000_000
    wrong = messages.camera_info('front_optical', stamp, make_camera((64, 64)))
    entries[hit] = changed(entries[hit], data=wrong)
    drive = convert(write_entries(tmp_path / 'bag', entries))
    assert drive.manifest['counts']['images_of_other_size'] == 1
    missing = [drive.frame(i).missing for i in range(len(drive))]
    assert missing == [('front',) if i == 4 else () for i in range(10)]


def test_a_sweep_that_lacks_a_field(tmp_path: Path) -> None:
    entries = SmallDrive().entries()
    hit = of_topic(entries, '/lidar/points')[6]
    data = entries[hit].data.replace(b'intensity', b'xntensity')
    entries[hit] = changed(entries[hit], data=data)
    drive = convert(write_entries(tmp_path / 'bag', entries))
    assert drive.manifest['counts']['sweeps_of_other_fields'] == 1
    assert drive.manifest['totals']['sweeps'] == 19


def test_sweeps_twice_late_and_with_odd_stamps(tmp_path: Path) -> None:
    entries = SmallDrive().entries()
    usual = convert(write_entries(tmp_path / 'usual', entries))
    assert not any('sweep' in n or 'lidar' in n for n in usual.manifest['counts'])
    places = of_topic(entries, '/lidar/points')
    twice = [*entries, entries[places[3]]]
    late = list(entries)
    late[places[5]] = changed(late[places[5]], time_ns=late[places[5]].time_ns + 400_000_000)
    odd = list(entries)
    data = bytearray(odd[places[5]].data)
    data[4:8] = (2**31 - 1).to_bytes(4, 'little')
    odd[places[5]] = changed(odd[places[5]], data=bytes(data))
    for name, changed_entries, count in (
        ('twice', twice, 'sweeps_twice'),
        ('late', late, 'sweeps_late'),
        ('odd', odd, 'lidar_clock_jumps'),
    ):
        changed_entries.sort(key=lambda entry: entry.time_ns)
        drive = convert(write_entries(tmp_path / name, changed_entries))
        assert drive.manifest['counts'][count] == 1, name
        sweeps = drive.manifest['totals']['sweeps'] - usual.manifest['totals']['sweeps']
        assert sweeps == {'twice': 0, 'late': -1}.get(name, sweeps)


def test_damage_in_errors_can_be_printed(tmp_path: Path) -> None:
    bag = write_entries(tmp_path / 'bag', SmallDrive(seconds=0.2).entries(), storage='sqlite3')
    (file,) = bag.glob('*.db3')
    data = file.read_bytes()
    assert b'CREATE TABLE metadata' in data
    file.write_bytes(data.replace(b'CREATE TABLE metadata', b'CREATE TABLE meta\x1b\x07ta', 1))
    with pytest.raises(BagError, match=r'unrecognized token: "\\x1b') as caught:
        convert(bag)
    assert str(caught.value).isprintable()


def test_names_in_errors_can_be_printed(tmp_path: Path) -> None:
    entries = [
        changed(e, data=e.data.replace(b'base_link', b'base\n\x00\x1b[k'))
        for e in SmallDrive(seconds=0.2, tf=False, odometry=False).entries()
    ]
    bag = write_entries(tmp_path / 'bag', entries)
    with pytest.raises(BagError) as caught:
        convert(bag)
    assert str(caught.value).isprintable()
    assert 'base' in str(caught.value)
