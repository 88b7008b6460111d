"""Reading bags: what comes out of every storage, and one clear line for what cannot be read."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from bev_perception.errors import BagError, MessageError
from bev_perception.messages import read_camera, read_image
from bev_training import messages
from bev_training.data import bag_files
from bev_training.data.bag_reader import Recording, read_messages
from bev_training.data.bag_types import MessageTypes
from test.data.small_bag import Entry, SmallDrive, write_bag, write_entries

DRIVE = SmallDrive(seconds=0.5)
KINDS = [
    ('mcap', 'none'),
    ('mcap', 'file'),
    ('mcap', 'message'),
    ('mcap', 'storage'),
    ('sqlite3', 'none'),
    ('sqlite3', 'file'),
    ('sqlite3', 'message'),
    ('ros1', 'none'),
]
IMAGE = '/camera/front/image_raw/compressed'


def contents(path: Path) -> list[tuple[str, int, str]]:
    """Topic, time and text of every message; ROS 1 has fields of its own, so only images there."""
    with Recording(path) as recording:
        assert not recording.unreadable
        return [
            (topic, at_ns, str(getattr(message, 'data', message)))
            for topic, at_ns, message in recording.messages(recording.topics)
        ]


def split(source: Path, folder: Path, *, metadata: bool = False) -> Path:
    """Two files of one recording in a folder, cut in the middle by time."""
    entries = DRIVE.entries()
    half = len(entries) // 2
    folder.mkdir()
    suffix = '.mcap' if (source / f'{source.name}.mcap').exists() else '.db3'
    storage = 'mcap' if suffix == '.mcap' else 'sqlite3'
    for number, part in ((9, entries[:half]), (10, entries[half:])):
        made = write_entries(folder.parent / f'part_{folder.name}_{number}', part, storage=storage)
        (made / f'{made.name}{suffix}').rename(folder / f'drive_{number}{suffix}')
    if metadata:
        names = ''.join(f'\n  - {folder.name}/drive_{n}{suffix}' for n in (9, 10))
        text = f'rosbag2_bagfile_information:\n  version: 4\n  relative_file_paths:{names}\n'
        (folder / 'metadata.yaml').write_text(text)
    return folder


@pytest.fixture(scope='module')
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_entries(tmp_path_factory.mktemp('plain') / 'bag', DRIVE.entries())


@pytest.fixture(scope='module')
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('database') / 'bag'
    return write_entries(path, DRIVE.entries(), storage='sqlite3')


@pytest.mark.parametrize(('storage', 'compression'), KINDS)
def test_every_storage(storage: str, compression: str, tmp_path: Path) -> None:
    """The same topics, counts, times and pictures out of all of them."""
    if storage == 'ros1':
        path = write_entries(tmp_path / 'drive.bag', DRIVE.entries())
    else:
        path = write_entries(
            tmp_path / 'bag', DRIVE.entries(), storage=storage, compression=compression
        )
    entries = DRIVE.entries()
    with Recording(path) as recording:
        counts = Counter(entry.topic for entry in entries)
        assert {n: t.messages for n, t in recording.topics.items()} == dict(counts)
        types = {entry.topic: entry.type for entry in entries}
        assert {n: t.type for n, t in recording.topics.items()} == types
        assert recording.message_count == len(entries)
        assert recording.start_ns == entries[0].time_ns
        assert recording.end_ns == entries[-1].time_ns + 1
        read = list(recording.messages(recording.topics))
        assert [at for _, at, _ in read] == [entry.time_ns for entry in entries]
        jpegs = [bytes(m.data) for topic, _, m in read if topic == IMAGE]
        assert jpegs == [DRIVE.jpeg('front', number) for number in range(5)]
        assert not recording.unreadable
        some = list(recording.messages([IMAGE], start_ns=read[40][1], stop_ns=read[80][1]))
        assert [at for _, at, _ in some] == [at for topic, at, _ in read[40:80] if topic == IMAGE]


def test_single_files(plain: Path, database: Path) -> None:
    whole = contents(plain)
    assert len(whole) == len(DRIVE.entries())
    assert contents(plain / 'bag.mcap') == whole
    assert contents(database / 'bag.db3') == contents(database) == whole


@pytest.mark.parametrize('metadata', [True, False])
def test_split_recordings(plain: Path, database: Path, tmp_path: Path, metadata: bool) -> None:
    """In natural order, with metadata.yaml or without; overlapping parts are merged."""
    assert contents(split(plain, tmp_path / 'mcap', metadata=metadata)) == contents(plain)
    assert contents(split(database, tmp_path / 'db3', metadata=metadata)) == contents(database)


def test_parts_that_overlap(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'bag'
    folder.mkdir()
    entries = DRIVE.entries()
    for number in range(2):
        made = write_entries(tmp_path / f'part{number}', entries[number::2])
        (made / f'{made.name}.mcap').rename(folder / f'x_{number}.mcap')
    times = [at for _, at, _ in contents(folder)]
    assert times == [entry.time_ns for entry in entries]


def test_damaged_metadata_is_not_needed(tmp_path: Path) -> None:
    path = write_entries(tmp_path / 'bag', DRIVE.entries(), compression='message')
    whole = contents(path)
    for text in ('', 'rosbag2_bagfile_information:\n  vers', '[1, 2', '\x00\x01'):
        (path / 'metadata.yaml').write_text(text)
        assert contents(path) == whole


def test_names_with_odd_characters(database: Path, tmp_path: Path) -> None:
    """A name is not read as a part of a URI."""
    odd = tmp_path / 'what? 50%20 #1'
    odd.symlink_to(database)
    assert contents(odd) == contents(database)


@pytest.mark.parametrize(
    ('storage', 'compression'), [('mcap', 'none'), ('sqlite3', 'none'), ('sqlite3', 'file')]
)
def test_object_store(storage: str, compression: str, tmp_path: Path) -> None:
    from upath import UPath

    local = write_entries(
        tmp_path / 'bag', DRIVE.entries(), storage=storage, compression=compression
    )
    remote = UPath(f'memory://{tmp_path.name}-{storage}-{compression}')
    for file in local.iterdir():
        (remote / 'bag' / file.name).write_bytes(file.read_bytes())
    assert contents(remote / 'bag') == contents(local)
    (remote / 'bag' / 'metadata.yaml').unlink()
    assert contents(remote / 'bag') == contents(local)
    with pytest.raises(BagError, match=r'memory:.*nothing does not exist'):
        contents(remote / 'nothing')


def test_ros1_in_object_store(tmp_path: Path) -> None:
    from upath import UPath

    local = write_entries(tmp_path / 'drive.bag', DRIVE.entries())
    remote = UPath(f'memory://{tmp_path.name}-ros1/drive.bag')
    remote.write_bytes(local.read_bytes())
    assert contents(remote) == contents(local)


def test_temporary_copies_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_entries(tmp_path / 'bag', DRIVE.entries(), compression='file')
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'temporary'))
    (tmp_path / 'temporary').mkdir()
    with Recording(path) as recording:
        assert recording.first(IMAGE) is not None
        assert any((tmp_path / 'temporary').iterdir())
    assert not any((tmp_path / 'temporary').iterdir())


def test_full_disk_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_entries(tmp_path / 'bag', DRIVE.entries(), compression='file')

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr('shutil.copyfileobj', full)
    with pytest.raises(BagError, match=r'no space left in .* TMPDIR'):
        contents(path)


def test_what_cannot_be_read(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(BagError, match='nowhere does not exist'):
        list(read_messages(tmp_path / 'nowhere'))
    (tmp_path / 'empty').mkdir()
    with pytest.raises(BagError, match=r'empty holds no \.mcap or \.db3 file'):
        list(read_messages(tmp_path / 'empty'))
    with pytest.raises(BagError, match='has no topic /absent; it has'):
        list(read_messages(plain, ['/absent']))
    (tmp_path / 'notes.txt').write_text('no bag')
    with pytest.raises(BagError, match=r'notes\.txt is no recording; it must end in'):
        contents(tmp_path / 'notes.txt')
    (tmp_path / 'x.mcap').write_bytes(b'')
    with pytest.raises(BagError, match=r'x\.mcap.*seems to be empty.*`mcap recover'):
        contents(tmp_path / 'x.mcap')
    (tmp_path / 'x.db3').write_bytes(b'')
    with pytest.raises(BagError, match=r'x\.db3.*missing tables.*`sqlite3'):
        contents(tmp_path / 'x.db3')
    (tmp_path / 'x.bag').write_bytes(b'')
    with pytest.raises(BagError, match=r'x\.bag.*seems to be empty.*`rosbag reindex'):
        contents(tmp_path / 'x.bag')


def test_recorder_that_died(plain: Path, database: Path, tmp_path: Path) -> None:
    data = (plain / 'bag.mcap').read_bytes()
    (tmp_path / 'cut.mcap').write_bytes(data[: len(data) // 2])
    with pytest.raises(BagError, match=r'cut\.mcap cannot be read: .*`mcap recover .*cut\.mcap'):
        contents(tmp_path / 'cut.mcap')
    (tmp_path / 'log.db3').write_bytes((database / 'bag.db3').read_bytes())
    (tmp_path / 'log.db3-wal').write_bytes(b'x')
    with pytest.raises(BagError, match=r'log\.db3-wal holds messages that are not in'):
        contents(tmp_path / 'log.db3')
    folder = split(plain, tmp_path / 'parts', metadata=True)
    (folder / 'drive_10.mcap').unlink()
    with pytest.raises(BagError, match=r'names drive_10\.mcap, which is not there.*reindex'):
        contents(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
def test_no_permission(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / 'x.mcap'
    path.write_bytes((plain / 'bag.mcap').read_bytes())
    path.chmod(0)
    with pytest.raises(BagError, match=r'x\.mcap: Permission denied'):
        contents(path)


def test_unreadable_messages_are_skipped_and_counted(tmp_path: Path) -> None:
    entries = DRIVE.entries()
    images = [i for i, entry in enumerate(entries) if entry.topic == IMAGE]
    for i, data in zip(images, (b'', b'\0\1\0\0', entries[images[2]].data[:-9]), strict=False):
        entries[i] = Entry(entries[i].time_ns, IMAGE, entries[i].type, data)
    for storage in ('mcap', 'sqlite3'):
        path = write_entries(tmp_path / storage, entries, storage=storage)
        with Recording(path) as recording:
            read = [topic for topic, _, _ in recording.messages(recording.topics)]
            assert len(read) == len(entries) - 3
            assert recording.unreadable == {IMAGE: 3}
            assert 'Invalid or unsupported CDR' in recording.first_problem[IMAGE]
            first = recording.first(IMAGE)
            assert first is not None and first[0] == entries[images[3]].time_ns
            assert recording.unreadable == {IMAGE: 3}, 'a second look counts nothing twice'
        with pytest.raises(BagError, match=f'{IMAGE}: Invalid'):
            list(read_messages(path))


def test_index_that_lacks_messages(tmp_path: Path) -> None:
    """What the statistics promise and the file does not hold is counted, not forgotten."""
    path = write_entries(tmp_path / 'bag', DRIVE.entries()) / 'bag.mcap'
    with Recording(path) as recording:
        (storage,) = recording._storages
        storage.connections = [
            c._replace(msgcount=c.msgcount + 4 * (c.topic == IMAGE)) for c in storage.connections
        ]
        recording._summarise()
        list(recording.messages(recording.topics))
        assert recording.unreadable == {IMAGE: 4}
        assert recording.first_problem[IMAGE] == '4 of 9 messages are not where the index says'


def old_database(path: Path, topics: dict[str, tuple[str, bytes]]) -> Path:
    """A database of Humble and before: no definitions."""
    connection = sqlite3.connect(path)
    connection.executescript(
        'CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT,'
        ' serialization_format TEXT, offered_qos_profiles TEXT);'
        'CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER,'
        ' data BLOB);'
    )
    for number, (name, (kind, data)) in enumerate(topics.items(), 1):
        connection.execute('INSERT INTO topics VALUES(?,?,?,?,?)', (number, name, kind, 'cdr', ''))
        connection.execute('INSERT INTO messages VALUES(?,?,?,?)', (number, number, number, data))
    connection.commit()
    connection.close()
    return path


def test_types_without_definition(tmp_path: Path) -> None:
    """Known ones, video types too, are read; others cost nothing but their own topic."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    text = 'builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n'
    video = 'foxglove_msgs/msg/CompressedVideo'
    store.register(get_types_from_msg(text, video))
    time = store.types['builtin_interfaces/msg/Time'](sec=1, nanosec=2)
    message = store.types[video](
        timestamp=time, frame_id='cam', data=np.arange(5, dtype=np.uint8), format='h264'
    )
    tf = messages.transforms(0, {('a', 'b'): np.eye(4)})
    path = old_database(
        tmp_path / 'old.db3',
        {
            '/tf': (messages.TF, tf),
            '/video': (video, bytes(store.serialize_cdr(message, video))),
            '/own': ('my_msgs/msg/Own', b'\0\1\0\0\0'),
        },
    )
    with Recording(path) as recording:
        read = {topic: message for topic, _, message in recording.messages(recording.topics)}
        assert sorted(read) == ['/tf', '/video']
        assert read['/video'].format == 'h264' and list(read['/video'].data) == [0, 1, 2, 3, 4]
        assert recording.unreadable == {'/own': 1}
        assert 'my_msgs/msg/Own is unknown' in recording.first_problem['/own']
    assert {topic for topic, _, _ in read_messages(path)} == {'/tf', '/video'}
    with pytest.raises(BagError, match='/own: type my_msgs/msg/Own is unknown'):
        list(read_messages(path, ['/own', '/tf']))


def test_contradicting_and_broken_definitions(tmp_path: Path) -> None:
    """Each topic is read by its own definition; one that is nonsense harms no other."""
    path = tmp_path / 'bag'
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, kind, text, data in (
            ('/one', 'my_msgs/msg/One', 'int32 value\n', b'\0\1\0\0\7\0\0\0'),
            ('/broken', 'my_msgs/msg/Two', 'int32 [[ value\n', b'\0\1\0\0\7\0\0\0'),
            (
                '/tf',
                messages.TF,
                'what is this?\n',
                messages.transforms(0, {('a', 'b'): np.eye(4)}),
            ),
        ):
            connection = writer.add_connection(
                topic, kind, msgdef=text, rihs01='RIHS01_' + '0' * 64
            )
            writer.write(connection, 5, data)
    with Recording(path) as recording:
        read = {topic: message for topic, _, message in recording.messages(recording.topics)}
        assert read['/one'].value == 7
        assert read['/tf'].transforms[0].child_frame_id == 'b', 'a known type needs no definition'
        assert recording.unreadable == {'/broken': 1}


def test_idl_definitions(tmp_path: Path) -> None:
    """As recorders write them for packages that ship .idl files."""
    line = '=' * 80
    idl = 'module my_msgs { module msg { struct One { int32 value; }; }; };'
    for text in (idl, f'{line}\nIDL: my_msgs/msg/One\n{idl}'):
        connection = Connection(
            id=1, topic='/one', msgtype='my_msgs/msg/One', digest='', msgcount=1, owner=None,
            msgdef=MessageDefinition(MessageDefinitionFormat.IDL, text),
            ext=ConnectionExtRosbag2('cdr', []),
        )  # fmt: skip
        assert MessageTypes(ros1=False).reader(connection)(b'\0\1\0\0\7\0\0\0').value == 7
    json = connection._replace(ext=ConnectionExtRosbag2('json', []))
    with pytest.raises(MessageError, match="encoded as 'json'; only cdr"):
        MessageTypes(ros1=False).reader(json)


def test_definition_that_lacks_a_field(tmp_path: Path) -> None:
    """A flipped bit in a definition does not take a field away from a published type."""
    text = 'std_msgs/Header header\nstring fmrmat\nuint8[] data\n'
    text += '=' * 80 + '\nMSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n'
    path = tmp_path / 'bag'
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(
            IMAGE, messages.COMPRESSED, msgdef=text, rihs01='RIHS01_' + '0' * 64
        )
        writer.write(connection, 5, messages.compressed_image('front', 1, b'x'))
    ((_, _, message),) = read_messages(path)
    assert message.format == messages.JPEG_FORMAT


def test_reading_stops_where_the_reader_stops(tmp_path: Path, monkeypatch) -> None:
    """The first message of a topic costs a chunk, not the recording."""
    path = write_bag(tmp_path / 'bag', seconds=2.0, points=20_000) / 'bag.mcap'
    import rosbags.rosbag2.storage_mcap as storage

    seen = []
    original = storage.decompress
    monkeypatch.setattr(
        storage,
        'decompress',
        lambda data, *rest: (seen.append(len(data)), original(data, *rest))[1],
    )
    with Recording(path) as recording:
        assert recording.first(IMAGE) is not None
        first = sum(seen)
        list(recording.messages([IMAGE]))
    assert sum(seen) - first > 4 * first


def test_interrupts_pass(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bag_files, '_reader', interrupted)
    with pytest.raises(KeyboardInterrupt):
        contents(plain)


def test_read_messages(plain: Path) -> None:
    topics = [IMAGE, '/camera/front/camera_info']
    found = list(read_messages(plain, topics))
    assert {topic for topic, _, _ in found} == set(topics)
    images = [message for topic, _, message in found if topic == IMAGE]
    assert read_image(images[0]).shape == (48, 64, 3)
    infos = [message for topic, _, message in found if topic == topics[1]]
    assert read_camera(infos[0], name='front', rectified=False).size_px == (64, 48)
    assert '/tf_static' in {topic for topic, _, _ in read_messages(plain)}


def test_real_recordings(shared_data: Path) -> None:
    """The same image out of ROS 1, rosbag2 mcap and rosbag2 sqlite3."""
    folder = shared_data / 'bag_raspicam_ros1'
    images = []
    for name in ('aruco_images.bag', 'ros2_mcap', 'ros2_sqlite3'):
        for _, _, message in read_messages(folder / name):
            if hasattr(message, 'format'):
                images.append(read_image(message))
    assert len(images) == 3
    assert all((image == images[0]).all() for image in images)


@pytest.mark.parametrize(
    ('name', 'messages', 'unreadable'),
    [
        ('bag_raspicam_ros1/aruco_images.bag', 16, 0),
        ('bag_hrp2_pcl_tf_ros1/watercan.bag', 3533, 0),
        ('bag_hrp2_pcl_tf_ros1/ros2_mcap', 3200, 0),
        ('bag_vehicle_odom_gnss_imu', 0, 0),
        ('bag_vehicle_odom_gnss_imu_mcap', 0, 0),
        ('bag_nebula_vlp16', 0, 1),
    ],
)
def test_every_real_recording(
    shared_data: Path, name: str, messages: int, unreadable: int
) -> None:
    path = shared_data / name
    if name == 'bag_nebula_vlp16':
        (path,) = (item for item in path.iterdir() if item.is_dir())
    with Recording(path) as recording:
        read = sum(1 for _ in recording.messages(recording.topics))
        assert read + recording.unreadable.total() == recording.message_count > 0
        assert read == messages or not messages
        assert bool(recording.unreadable) == bool(unreadable)
    if unreadable:
        with pytest.raises(BagError, match='is unknown: the recording has no definition'):
            list(read_messages(path, list(recording.first_problem)))
