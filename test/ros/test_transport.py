"""The shared-memory profile: when it is set, and that Fast DDS takes it."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rclpy.duration import Duration, Infinite
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from bev_perception.resources import config_path
from bev_perception.ros import transport
from bev_perception.ros.bag_topics import (
    accepted_profile,
    message_type,
    offered_profile,
    recorded_qos,
    typestore_of,
)

BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=7)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
CHOICES = (
    'FASTDDS_DEFAULT_PROFILES_FILE',
    'FASTRTPS_DEFAULT_PROFILES_FILE',
    'FASTDDS_BUILTIN_TRANSPORTS',
    'RMW_IMPLEMENTATION',
)
SHOW = """
import rclpy
from bev_perception.ros.transport import shared_memory_segments, use_shared_memory_profile
use_shared_memory_profile()
rclpy.init()
node = rclpy.create_node('segments')
sizes = shared_memory_segments()
print(max(size for path, size in sizes.items() if '_port' not in path.name))
node.destroy_node()
rclpy.shutdown()
"""


def largest_segment_bytes(**environ: str) -> int:
    clean = {k: v for k, v in os.environ.items() if k not in CHOICES}
    done = subprocess.run(
        [sys.executable, '-c', SHOW],
        env={**clean, **environ}, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return int(done.stdout)


def test_the_profile_is_in_force() -> None:
    assert largest_segment_bytes() >= transport.SEGMENT_BYTES


def test_the_users_choice_stays_in_force() -> None:
    assert largest_segment_bytes(FASTDDS_BUILTIN_TRANSPORTS='DEFAULT') < 2**20


def test_the_file_says_what_the_code_says() -> None:
    root = ElementTree.parse(config_path('fastdds.xml')).getroot()
    name = '{http://www.eprosima.com}'
    assert [int(e.text) for e in root.iter(f'{name}segment_size')] == [transport.SEGMENT_BYTES]
    assert [e.text for e in root.iter(f'{name}useBuiltinTransports')] == ['false']


def test_only_the_variable_of_this_fast_dds_is_set() -> None:
    environ: dict[str, str] = {}
    assert transport.use_shared_memory_profile(environ) == config_path('fastdds.xml')
    assert environ == {transport.profile_variable(): str(config_path('fastdds.xml'))}


@pytest.mark.parametrize('name', CHOICES)
def test_a_users_choice_is_left_alone(name: str) -> None:
    environ = {name: 'rmw_cyclonedds_cpp'}
    assert transport.use_shared_memory_profile(environ) is None
    assert environ == {name: 'rmw_cyclonedds_cpp'}
    assert transport.use_shared_memory_profile({'RMW_IMPLEMENTATION': 'rmw_fastrtps_cpp'})


def test_too_little_shared_memory_is_said(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    missing = str(tmp_path / 'none')
    assert transport.use_shared_memory_profile(environ, missing) is None
    assert environ == {}
    assert '0 MiB free' in capsys.readouterr().err


def test_recorded_qos_survives_the_way_through_a_bag() -> None:
    for profile in (BEST_EFFORT, RELIABLE, LATCHED):
        again = offered_profile('/x', [recorded_qos(profile)], 3)
        assert (again.reliability, again.durability, again.depth) == (
            profile.reliability, profile.durability, profile.depth
        )  # fmt: skip
    timed = QoSProfile(depth=2, deadline=Duration(seconds=1.5), lifespan=Infinite)
    again = offered_profile('/x', [recorded_qos(timed)], 3)
    assert again.deadline == timed.deadline
    assert again.lifespan == Infinite


def test_offer_for_several_recorded_publishers_suits_everyone() -> None:
    recorded = [recorded_qos(p) for p in (BEST_EFFORT, LATCHED)]
    offer = offered_profile('/map', recorded, 9)
    assert offer.reliability == ReliabilityPolicy.RELIABLE
    assert offer.durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert offer.depth == 5


def test_depth_where_the_bag_holds_none() -> None:
    unknown = recorded_qos(LATCHED)._replace(
        history=recorded_qos(LATCHED).history.UNKNOWN, depth=0
    )
    assert offered_profile('/map', [unknown, unknown], 500).depth == 2
    assert offered_profile('/tf_static', [unknown], 7).depth == 7
    assert offered_profile('/tf_static', [], 0).durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert offered_profile('/tf', [], 9999).depth == 100
    keep_all = recorded_qos(QoSProfile(history=HistoryPolicy.KEEP_ALL))
    assert offered_profile('/points', [keep_all], 9999).history == HistoryPolicy.KEEP_LAST


def test_a_recorder_asks_for_no_more_than_all_offer() -> None:
    assert accepted_profile([RELIABLE], 9).reliability == ReliabilityPolicy.RELIABLE
    assert accepted_profile([RELIABLE, BEST_EFFORT], 9).reliability == (
        ReliabilityPolicy.BEST_EFFORT
    )
    assert accepted_profile([LATCHED], 9).durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert accepted_profile([LATCHED, RELIABLE], 9).durability == DurabilityPolicy.VOLATILE


def test_types_by_name_and_hash() -> None:
    from std_msgs.msg import String

    known = 'RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18'
    assert message_type('std_msgs/msg/String') is String
    assert message_type('std_msgs/msg/Nothing') is None
    assert message_type('no_such_msgs/msg/Thing') is None
    assert typestore_of('std_msgs/msg/String', known) is not None
    assert typestore_of('std_msgs/msg/String', 'RIHS01_0') is None
