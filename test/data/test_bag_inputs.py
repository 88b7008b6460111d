"""Which recordings lie where, how they are called, and what tells them apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from bev_perception.errors import BagError
from bev_training.data.bag_inputs import BagSource, find_bags, fingerprint
from test.data.small_bag import SmallDrive, write_entries

ENTRIES = SmallDrive(seconds=0.2, cameras=('front',)).entries()


@pytest.fixture(scope='module')
def mcap(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = write_entries(tmp_path_factory.mktemp('mcap') / 'bag', ENTRIES)
    return (path / 'bag.mcap').read_bytes()


def names(*paths: Path | str) -> list[str]:
    return [source.name for source in find_bags(paths)]


def put(path: Path, data: bytes = b'x') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_what_is_one_recording(tmp_path: Path) -> None:
    """Folders with metadata, .bag files, loose files, and files in parts."""
    write_entries(tmp_path / 'day' / 'drive_10', ENTRIES)
    write_entries(tmp_path / 'day' / 'drive_9', ENTRIES)
    put(tmp_path / 'ros1' / 'a.bag')
    put(tmp_path / 'ros1' / 'b.bag')
    for name in ('left_0.mcap', 'left_1.mcap', 'left_10.mcap', 'right.mcap', 'x.db3.zstd'):
        put(tmp_path / 'loose' / name)
    for name in ('died_0.db3', 'died_1.db3'):
        put(tmp_path / 'died' / name)
    put(tmp_path / 'one' / 'one_2024_0.mcap')
    put(tmp_path / 'other' / 'notes.txt')
    put(tmp_path / 'other' / 'metadata.yaml', b'title: holiday pictures')
    put(tmp_path / '.hidden' / 'h.bag')
    found = {source.name: source for source in find_bags([tmp_path])}
    assert list(found) == [
        'a', 'b', 'died', 'drive_9', 'drive_10', 'left', 'one', 'right', 'x',
    ]  # fmt: skip
    assert found['drive_9'].path == tmp_path / 'day' / 'drive_9'
    assert [f.name for f in found['left'].files] == ['left_0.mcap', 'left_1.mcap', 'left_10.mcap']
    assert [f.name for f in found['died'].files] == ['died_0.db3', 'died_1.db3']
    assert found['right'].path == tmp_path / 'loose' / 'right.mcap'


def test_named_directly(tmp_path: Path) -> None:
    bag = write_entries(tmp_path / 'drive', ENTRIES)
    assert names(bag) == names(str(bag)) == names(bag, bag, bag / '..' / 'drive') == ['drive']
    assert names(bag / 'drive.mcap') == ['drive']


def test_the_present_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = write_entries(tmp_path / 'drive', ENTRIES)
    monkeypatch.chdir(bag)
    assert names('.') == ['drive']


def test_names_are_safe_and_unique(tmp_path: Path) -> None:
    for folder in ('monday', 'tuesday', 'x/monday'):
        put(tmp_path / folder / 'morning.bag')
    put(tmp_path / 'x' / 'Lunch (with pause), 50 %.bag')
    put(tmp_path / 'x' / '-rf.bag')
    put(tmp_path / 'x' / 'cam.json.bag')
    assert names(tmp_path) == [
        'Lunch_with_pause_50_', 'cam_json', 'monday_morning', 'monday_morning_2', 'rf',
        'tuesday_morning',
    ]  # fmt: skip


def test_one_folder_per_recording(tmp_path: Path) -> None:
    """Many recorders make a folder `rosbag2` in a folder with the name of the drive."""
    for drive in ('d1', 'd2'):
        write_entries(tmp_path / drive / 'rosbag2', ENTRIES)
    assert names(tmp_path) == ['d1_rosbag2', 'd2_rosbag2']


def test_split_recording_opens(tmp_path: Path, mcap: bytes) -> None:
    for number in range(2):
        put(tmp_path / f'x_{number}.mcap', mcap)
    put(tmp_path / 'y.mcap', mcap)
    x, y = find_bags([tmp_path])
    with x.open() as both, y.open() as one:
        assert both.message_count == 2 * one.message_count == 2 * len(ENTRIES)


def test_links_do_not_lead_in_circles(tmp_path: Path) -> None:
    put(tmp_path / 'a' / 'x.bag')
    (tmp_path / 'a' / 'back').symlink_to(tmp_path)
    assert names(tmp_path) == ['x']


def test_nothing_found(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='absent does not exist'):
        find_bags([tmp_path / 'absent'])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(BagError, match='empty holds no recording'):
        find_bags([tmp_path / 'empty'])
    with pytest.raises(BagError, match=r'notes\.txt is no recording; it must end in'):
        find_bags([put(tmp_path / 'notes.txt')])
    put(tmp_path / 'open' / 'x.bag.active')
    with pytest.raises(BagError, match=r'x\.bag\.active was not closed.*rosbag reindex'):
        find_bags([tmp_path / 'open'])
    put(tmp_path / 'x.bag')
    assert names(tmp_path) == ['x']


def test_object_store(tmp_path: Path, mcap: bytes) -> None:
    from upath import UPath

    root = UPath(f'memory://{tmp_path.name}-inputs')
    (root / 'day' / 'a.mcap').write_bytes(mcap)
    (root / 'b_0.mcap').write_bytes(mcap)
    (root / 'b_1.mcap').write_bytes(mcap)
    sources = find_bags([str(root)])
    assert [source.name for source in sources] == ['a', 'b']
    assert fingerprint(sources[0])['files'] == [{'name': 'a.mcap', 'size_bytes': len(mcap)}]
    with sources[1].open() as recording:
        assert recording.message_count == 2 * len(ENTRIES)
    with pytest.raises(BagError, match=r'memory:.*nothing does not exist'):
        find_bags([f'memory://{tmp_path.name}-nothing'])


def test_fingerprint(tmp_path: Path) -> None:
    bag = write_entries(tmp_path / 'drive', ENTRIES)
    source = BagSource(name='drive', path=bag)
    first = fingerprint(source)
    assert [item['name'] for item in first['files']] == ['metadata.yaml', 'drive.mcap']
    assert first['files'][1]['size_bytes'] == (bag / 'drive.mcap').stat().st_size
    moved = (tmp_path / 'elsewhere').resolve()
    bag.rename(moved)
    assert fingerprint(BagSource(name='x', path=moved)) == first
    data = bytearray((moved / 'drive.mcap').read_bytes())
    data[1000] ^= 1
    (moved / 'drive.mcap').write_bytes(data)
    assert fingerprint(BagSource(name='x', path=moved)) != first


@pytest.mark.parametrize('place', [0.0, 1.0])
def test_fingerprint_of_a_large_file(tmp_path: Path, place: float) -> None:
    """Its first and last byte count; most of it is not read."""
    path = put(tmp_path / 'x.mcap', bytes(20 << 20))
    before = fingerprint(BagSource(name='x', path=path))
    data = bytearray(20 << 20)
    data[round(place * (len(data) - 1))] = 1
    path.write_bytes(data)
    assert fingerprint(BagSource(name='x', path=path)) != before
