"""Video topics: sizes, lost and damaged packets, unknown codecs."""

from __future__ import annotations

from pathlib import Path

import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from bev_training import messages
from bev_training.inspection.findings import Subject
from bev_training.inspection.report import inspect_paths
from bev_training.inspection.report_text import text_report
from test.data.small_bag import CAMERA_DELAY_NS, SmallDrive
from test.inspection.defects import CONFIG

pytest.importorskip('av')
KINDS = ('foxglove', 'ffmpeg')
SIZE_PX = (96, 64)


def write(folder: Path, kind: str, change=lambda i, data: data, codec: str = '') -> Path:
    """Write a drive of 3 s whose three cameras send H.264 with a key picture every second.

    Args:
        folder: of the recording.
        kind: of `KINDS`.
        change: (number, packet) -> packet of the camera 'front', or None to leave it out.
        codec: what the messages name; '' = the right one.
    """
    from bev_training.data.video import FFMPEG, FOXGLOVE
    from test.data.small_video import TYPES, ffmpeg_packet, foxglove_video, moving_images, packets

    make, name = (foxglove_video, FOXGLOVE) if kind == 'foxglove' else (ffmpeg_packet, FFMPEG)
    named = codec or ('h264' if kind == 'foxglove' else 'libx264')
    drive = SmallDrive(seconds=3.0, size_px=SIZE_PX)
    sent = packets(moving_images(30, SIZE_PX), key_every=10)
    entries = []
    for entry in drive.entries():
        if 'image_raw' not in entry.topic:
            entries.append((entry.time_ns, entry.topic, entry.type, entry.data))
    for camera in drive.cameras:
        for number, data in enumerate(sent):
            kept = change(number, data) if camera == 'front' else data
            if kept is not None:
                stamp = drive.exposure_ns(camera, number)
                data = make(kept, stamp, f'{camera}_optical', named)
                entries.append((stamp + CAMERA_DELAY_NS, f'/camera/{camera}/video', name, data))
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for at, topic, kind_of, data in sorted(entries, key=lambda e: e[0]):
            if topic not in connections:
                profile = messages.qos(reliable=True, latched=topic == '/tf_static')
                connections[topic] = writer.add_connection(
                    topic, kind_of, typestore=TYPES, offered_qos_profiles=[profile]
                )
            writer.write(connections[topic], at, data)
    return folder


def inspected(path: Path) -> Subject:
    (subject,) = inspect_paths([path], CONFIG)
    return subject


def rules(subject: Subject) -> set[str]:
    return {f.rule for f in subject.findings} - {'BAG053'}


@pytest.mark.parametrize('kind', KINDS)
def test_a_healthy_video(kind, tmp_path):
    subject = inspected(write(tmp_path / 'bag', kind))
    assert rules(subject) == set(), subject.findings
    front = subject.facts['cameras']['front']
    assert front['sizes_px'] == [[96, 64]]
    assert sum(front['formats'].values()) == 30
    assert front['video'] == {'video_waiting': 0, 'video_damaged': 0, 'video_gaps': 0}
    assert subject.facts['sync']['complete'] == 30
    assert '96x64' in text_report([subject])


@pytest.mark.parametrize('kind', KINDS)
def test_lost_packets(kind, tmp_path):
    bag = write(tmp_path / 'bag', kind, lambda i, data: None if i == 14 else data)
    subject = inspected(bag)
    (finding,) = (f for f in subject.findings if f.rule == 'BAG054')
    assert finding.where == 'front'
    # 15 to 19 follow the lost one, 20 is a key picture
    assert finding.text == (
        '5 of 29 packets: 0 damaged, 5 wait for a key picture; packets are lost at 1 place'
    )
    assert subject.facts['sync']['complete'] == 24
    assert subject.facts['cameras']['front']['video']['video_gaps'] == 1


def test_damaged_packets(tmp_path):
    def damage(i: int, data: bytes) -> bytes:
        return data[:6] + bytes(len(data) - 6) if i == 12 else data

    subject = inspected(write(tmp_path / 'bag', 'foxglove', damage))
    (finding,) = (f for f in subject.findings if f.rule == 'BAG054')
    video = subject.facts['cameras']['front']['video']
    assert video['video_damaged'] + video['video_waiting'] == 8
    assert finding.text.startswith('8 of 30 packets')


def test_a_recording_that_begins_between_key_pictures(tmp_path):
    short = inspected(write(tmp_path / 'a', 'foxglove', lambda i, d: None if i < 9 else d))
    assert 'BAG054' not in rules(short)  # one of 21
    long = inspected(write(tmp_path / 'b', 'foxglove', lambda i, d: None if i == 0 else d))
    assert 'BAG054' in rules(long)  # nine of 29


def test_an_unknown_codec_is_damage(tmp_path):
    subject = inspected(write(tmp_path / 'bag', 'foxglove', codec='theora'))
    damaged = {f.where: f.text for f in subject.findings if f.rule == 'BAG050'}
    assert set(damaged) == {'front', 'front_left', 'front_right'}
    assert damaged['front'].startswith('30 of 30 images damaged')
    assert 'theora' in damaged['front']
    assert 'BAG020' in rules(subject)


def test_a_missing_decoder_is_one_finding(tmp_path, monkeypatch):
    from bev_perception.errors import ConfigError

    def missing(camera):
        raise ConfigError(f'{camera}: video topics need the package av')

    bag = write(tmp_path / 'bag', 'foxglove')
    monkeypatch.setattr('bev_training.data.video._import_av', missing)
    subject = inspected(bag)
    assert [f.rule for f in subject.findings if f.severity == 'error'] == ['BAG006']
    assert 'package av' in subject.findings[0].text
