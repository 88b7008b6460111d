"""Pictures of a drive: images with lidar points, the way driven, speed."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bev_perception.errors import BevError
from bev_training.data.drives import Drive
from bev_training.data.frame import Frame
from bev_training.inspection.bag_plots import top_size_in, top_view
from bev_training.inspection.drawing import ACCENT, BAD, INK, bar, draw, png, style
from bev_training.inspection.drive_measurements import DriveMeasured, decode, lidar_in_image

_NEAR_M, _FAR_M = 2.0, 50.0
_COLUMNS = 3
_IMAGE_IN = 3.4


def drive_plots(m: DriveMeasured) -> dict[str, bytes]:
    """Return PNG bytes by caption; only those for which there is something to draw."""
    plots: dict[str, bytes] = {}
    drive = Drive(m.path)
    for number in sheet_frames(m):
        try:
            frame = drive.frame(number)
        except (BevError, OSError):
            continue  # a finding says so
        caption = (
            f'Frame {number} of {len(drive)}: the newest sweep of every lidar in the images; '
            'colour is the distance along the optical axis.'
        )
        plots[caption] = _sheet(m, frame)
    known = np.isfinite(m.places).all(axis=-1)
    if known.sum() > 1:
        seconds, steps = m.steps
        metres = np.linalg.norm(steps, axis=-1)
        linked = m.linked & (seconds > 0)
        speeds = np.where(linked, metres / np.where(seconds > 0, seconds, 1), np.nan)
        path = np.where(np.append(linked, True)[:, None], m.places, np.nan)[:, :2]
        marked = np.append(speeds, np.nan)
        marked = np.where(np.isnan(marked), np.append(np.nan, speeds), marked)
        plots['The way driven, from above; a mark per frame.'] = draw(
            top_size_in(path), lambda ax: top_view(ax, path, m.places, marked)
        )
        plots['Speed between neighbouring frames. Red: a sequence begins.'] = draw(
            (9, 2.6), lambda ax: _speed(ax, m, speeds)
        )
    return plots


def sheet_frames(m: DriveMeasured) -> list[int]:
    """Return the two frames that are shown: a quarter and three quarters through the drive."""
    frames = len(m.stamps_ns)
    return sorted({frames // 4, (3 * frames) // 4} - {frames}) if frames else []


def _sheet(m: DriveMeasured, frame: Frame) -> bytes:
    columns = min(_COLUMNS, len(m.cameras))
    rows = math.ceil(len(m.cameras) / columns)
    shapes = [view.image.size_px for view in frame.views]
    aspect = shapes[0][1] / shapes[0][0] if shapes else 0.6
    size = (_IMAGE_IN * columns + 0.75, (_IMAGE_IN * aspect + 0.22) * rows + 0.05)
    figure = Figure(figsize=size, dpi=110, layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False)
    views = {view.camera: view for view in frame.views}
    marks = None
    for ax, name in zip(axes.flat, m.cameras, strict=False):
        ax.set_title(name, color=INK, fontsize=9, pad=3)
        if name not in views:
            ax.text(0.5, 0.5, 'no image', ha='center', va='center', transform=ax.transAxes)
            continue
        try:
            image = decode(views[name])
            uv, seen, depth_m = (
                lidar_in_image(frame, views[name], m.calibrations)
                if frame.sweeps
                else (np.zeros((0, 2)), np.zeros(0, bool), np.zeros(0))
            )
        except BevError as error:
            ax.text(0.5, 0.5, str(error)[:60], ha='center', va='center', transform=ax.transAxes)
            continue
        ax.imshow(image)
        height, width = image.shape[:2]
        order = np.argsort(-depth_m[seen])  # near ones over far ones
        marks = ax.scatter(
            *uv[seen][order].T,
            c=depth_m[seen][order],
            s=1.6,
            cmap='turbo_r',
            vmin=_NEAR_M,
            vmax=_FAR_M,
            linewidths=0,
        )
        ax.set_xlim(-0.5, width - 0.5)
        ax.set_ylim(height - 0.5, -0.5)
    for ax in axes.flat:
        ax.set_axis_off()
    if marks is not None and frame.sweeps:
        colours = figure.colorbar(marks, ax=axes, fraction=0.02, pad=0.01, extend='both')
        bar(colours, 'depth, m')
    return png(figure)


def _speed(ax: Axes, m: DriveMeasured, speeds_mps: np.ndarray) -> None:
    stamps_s = (np.array(m.stamps_ns, np.int64) - m.stamps_ns[0]) / 1e9
    middle_s = (stamps_s[1:] + stamps_s[:-1]) / 2
    style(ax)
    ax.plot(middle_s, speeds_mps, color=ACCENT, linewidth=1.3, marker='.', markersize=3)
    for at in np.flatnonzero(~m.linked):
        ax.axvline(stamps_s[at + 1], color=BAD, linewidth=1)
    known = speeds_mps[np.isfinite(speeds_mps)]
    ax.set_ylim(0, 1.1 * max(float(known.max(initial=0.0)), 1.0))
    ax.set_xlabel('seconds from the first frame')
    ax.set_ylabel('speed, m/s')
