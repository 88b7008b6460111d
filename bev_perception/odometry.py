"""What odometry can be trusted to say of a vehicle's way."""

from __future__ import annotations

import math

from bev_perception.shapes import Rigid

# What a vehicle can do from one pose to another; beyond it the odometry jumped.
_STEP_M, _SPEED_MPS = 0.5, 60.0
_TURN_RAD, _RATE_RADPS = 0.2, 3.0


def jumps(odom_T_a: Rigid | None, odom_T_b: Rigid | None, seconds: float) -> bool:
    """Whether no vehicle gets from one pose to the other in this time (its sign is ignored)."""
    if odom_T_a is None or odom_T_b is None:
        return False
    cosine = (float((odom_T_a[:3, :3] * odom_T_b[:3, :3]).sum()) - 1) / 2
    turn_rad = math.acos(min(max(cosine, -1.0), 1.0))
    return distance_m(odom_T_a, odom_T_b) > _STEP_M + _SPEED_MPS * abs(
        seconds
    ) or turn_rad > _TURN_RAD + _RATE_RADPS * abs(seconds)


def distance_m(odom_T_a: Rigid | None, odom_T_b: Rigid | None) -> float:
    """Return the straight way between two poses; 0 where one is unknown."""
    if odom_T_a is None or odom_T_b is None:
        return 0.0
    return math.dist(odom_T_a[:3, 3].tolist(), odom_T_b[:3, 3].tolist())
