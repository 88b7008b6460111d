"""What goes into the network and comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class BevInputs:
    """Pinhole images of a batch of view sets.

    Attributes:
        images: (b, n, 3, h, w) float32, normalised; zeros where a camera is missing.
        K: (b, n, 3, 3) float32 intrinsics of these images, pixel centres at integers.
        ego_T_cam: (b, n, 4, 4) float32.
        live: (b, n) bool, False where a camera is missing.
        odom_T_ego: (b, 4, 4) float64 poses of the ego frames in a frame that the vehicle moves
            smoothly in, NaN where unknown; None where nobody asks.
    """

    images: Tensor
    K: Tensor
    ego_T_cam: Tensor
    live: Tensor
    odom_T_ego: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class BevMemory:
    """What a temporal network knows of an instant: its plane, and where that was.

    Attributes:
        features: (b, c, y, x) the attention layers' plane, without gradient.
        valid: (b, y, x) bool, cells that a camera saw then, or that were known before.
        odom_T_ego: (b, 4, 4) float64; NaN where nothing is known, such as before a first instant.
    """

    features: Tensor
    valid: Tensor
    odom_T_ego: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureVolume:
    """Image features gathered in the BEV volume.

    Attributes:
        features: (b, c, z, y, x); zeros where no camera sees the voxel.
        valid: (b, z, y, x) bool, whether a live camera sees the voxel's centre.
    """

    features: Tensor
    valid: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class BevPlane:
    """What the network knows of every cell, before a head says what that is.

    Attributes:
        features: (b, c, y, x).
        valid: (b, y, x) bool, whether a live camera sees any height of the cell.
        memory: see `BevPrediction`.
    """

    features: Tensor
    valid: Tensor
    memory: BevMemory | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class BevPrediction:
    """The network's output.

    Attributes:
        logits: (b, class, y, x), independent per class.
        valid: (b, y, x) bool, whether a live camera sees any height of the cell.
        center: (b, 1, y, x) logits that an object's middle is here; None where not asked for.
        offset: (b, 2, y, x) from a cell's centre to the middle of the object in it, in cells along
            x and y; None where not asked for.
        memory: for the next instant; None of a network that is not temporal, or where the
            vehicle's pose is unknown.
    """

    logits: Tensor
    valid: Tensor
    center: Tensor | None = None
    offset: Tensor | None = None
    memory: BevMemory | None = None
