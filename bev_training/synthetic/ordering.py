"""The order in which to paint objects that stand side by side, for a painter without depth."""

from __future__ import annotations

import numpy as np

from bev_perception.shapes import Array


def far_to_near(poses: Array, sizes_m: Array, eye_xy: Array) -> Array:
    """Order upright boxes so that each is painted after all that it can hide.

    Of two boxes that an edge's line of one separates, the one on the eye's side comes later.
    Boxes whose footprints overlap are ordered by distance.

    Args:
        poses: (N, 3) x, y, yaw.
        sizes_m: (N, 2) length and width.
        eye_xy: (2,).

    Returns:
        (N,) indices.
    """
    c, s = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    ahead, left = np.stack([c, s], -1), np.stack([-s, c], -1)
    normals = np.stack([ahead, left, -ahead, -left], 1)  # (N, 4, 2)
    half = np.concatenate([sizes_m, sizes_m], 1) / 2
    middle = poses[:, :2]
    offsets = (normals * middle[:, None]).sum(-1) + half
    signs = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)])
    reach = sizes_m[:, None] / 2 * signs
    corners = middle[:, None] + reach[..., :1] * ahead[:, None] + reach[..., 1:] * left[:, None]

    beyond = np.einsum('iek,jck->iejc', normals, corners).min(-1) >= offsets[..., None] - 1e-6
    eye_out = normals @ eye_xy > offsets  # (N, 4)
    first = (beyond & eye_out[..., None]).any(
        1
    )  # i before j: j lies on the eye's side of an edge of i
    first |= (beyond & ~eye_out[..., None]).any(1).T
    first &= ~first.T  # where both orders are right, none is needed

    distance = np.linalg.norm(middle - eye_xy, axis=1)
    waiting = first.sum(0)  # how many must come before each
    left_over = np.ones(len(poses), bool)
    order = []
    for _ in range(len(poses)):
        ready = left_over & (waiting <= 0)
        if not ready.any():  # boxes that hide each other in a ring have no right order
            ready = left_over
        pick = int(np.argmax(np.where(ready, distance, -1)))
        order.append(pick)
        left_over[pick] = False
        waiting = waiting - first[pick]
    return np.array(order, int)
