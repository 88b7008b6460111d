"""How topics are described in bags and in ROS: quality of service and types, both ways."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence

from rclpy.duration import Duration, Infinite
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSProfile,
    ReliabilityPolicy,
)
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

_NS_PER_S = 1_000_000_000
_FOREVER_S = 2_147_483_647  # the seconds of DDS's own infinite duration; bags hold larger ones too
_MAX_LATCHED = 1000


def offered_profile(topic: str, recorded: Sequence[Qos], messages: int) -> QoSProfile:
    """The QoS to offer when a recorded topic is played.

    Recorded policies are kept. Where several publishers were recorded, the offer is the one
    that every subscriber of any of them accepts: reliable and transient local win. Discovery
    does not carry the depth, so most bags hold none; then a depth of 10 (100 for /tf) is taken.
    /tf_static keeps all of its messages, as each may carry other frames.

    Args:
        recorded: `offered_qos_profiles` of the bag; empty in old bags.
        messages: How many messages the bag holds of this topic.
    """
    static = topic == '/tf_static'
    reliable = not recorded or any(q.reliability != QosReliability.BEST_EFFORT for q in recorded)
    latched = any(q.durability == QosDurability.TRANSIENT_LOCAL for q in recorded)
    latched = latched or (static and not recorded)
    depths = [q.depth for q in recorded if q.history == QosHistory.KEEP_LAST]
    depth = max(depths, default=0)
    if static:
        depth = max(depth, min(messages, _MAX_LATCHED))
    elif depth == 0:
        depth = len(recorded) if latched else 100 if topic == '/tf' else 10
    profile = QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=max(depth, 1),
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
    timing = {
        (q.deadline, q.lifespan, q.liveliness, q.liveliness_lease_duration) for q in recorded
    }
    if len(timing) == 1:
        deadline, lifespan, liveliness, lease = timing.pop()
        profile.deadline = _duration(deadline)
        profile.lifespan = _duration(lifespan)
        profile.liveliness_lease_duration = _duration(lease)
        if liveliness == QosLiveliness.MANUAL_BY_TOPIC:
            profile.liveliness = LivelinessPolicy.MANUAL_BY_TOPIC
    return profile


def accepted_profile(offers: Sequence[QoSProfile], depth: int) -> QoSProfile:
    """The strictest QoS with which one subscription receives from all of these publishers."""
    reliable = all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
    latched = all(offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def recorded_qos(offer: QoSProfile) -> Qos:
    """A publisher's QoS, as the ROS graph tells it, in the form that bags store."""
    return Qos(
        history=QosHistory(int(offer.history)),
        depth=offer.depth,
        reliability=QosReliability(int(offer.reliability)),
        durability=QosDurability(int(offer.durability)),
        deadline=_qos_time(offer.deadline),
        lifespan=_qos_time(offer.lifespan),
        liveliness=QosLiveliness(int(offer.liveliness)),
        liveliness_lease_duration=_qos_time(offer.liveliness_lease_duration),
        avoid_ros_namespace_conventions=offer.avoid_ros_namespace_conventions,
    )


def message_type(name: str) -> type | None:
    """The installed class of 'package/msg/Name', None where its package is not installed."""
    *module, name = name.split('/')
    try:
        return getattr(importlib.import_module('.'.join(module)), name, None)
    except ImportError:
        return None


@functools.cache
def typestore_of(name: str, type_hash: str) -> Typestore | None:
    """The definitions of the ROS 2 distribution in which this type has this hash, if any.

    Args:
        name: 'package/msg/Name'.
        type_hash: 'RIHS01_...' as the ROS graph and bags carry it.
    """
    newest_first = (Stores.ROS2_LYRICAL, Stores.ROS2_KILTED, Stores.ROS2_JAZZY, Stores.ROS2_HUMBLE)
    for store in map(get_typestore, newest_first):
        if name in store.fielddefs and store.hash_rihs01(name) == type_hash:
            return store
    return None


def _duration(time: QosTime) -> Duration:
    if time.sec >= _FOREVER_S:
        return Infinite
    return Duration(nanoseconds=time.sec * _NS_PER_S + time.nsec)


def _qos_time(duration: Duration) -> QosTime:
    return QosTime(*divmod(duration.nanoseconds, _NS_PER_S))
