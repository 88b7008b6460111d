"""Pictures of a recording: silent sensors, spread of the sets, clocks, the way driven."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bev_perception.shapes import Array
from bev_training.inspection.bag_measurements import BagMeasured
from bev_training.inspection.drawing import ACCENT, BAD, COLOURS, INK, QUIET, draw

_SENSORS = ('camera', 'lidar', 'odometry')
_ROW_IN = 0.3


def bag_plots(m: BagMeasured) -> dict[str, bytes]:
    """Return PNG bytes by caption; only those for which there is something to draw."""
    plots: dict[str, bytes] = {}
    rows = _rows(m)
    if rows:
        caption = 'Sensors over time. Red: gaps of more than 3 periods.'
        plots[caption] = draw((9, 1.1 + _ROW_IN * len(rows)), lambda ax: _timeline(ax, m, rows))
    if len(m.spreads_s):
        caption = 'Spread of the sets of images: newest minus oldest exposure, after offsets.'
        plots[caption] = draw((9, 2.6), lambda ax: _spreads(ax, m))
    offsets = {topic: m.offsets[topic] for topic, _ in rows if topic in m.offsets}
    if offsets:
        caption = (
            'Recording time minus header stamp: delay of transport, if the clocks agree. A slope '
            'is drift, a step a jump.'
        )
        plots[caption] = draw((9, 3.4), lambda ax: _offsets(ax, m, offsets))
    if np.isfinite(m.path_at).all(axis=-1).sum() > 1:
        caption = f'The way driven, from above, with the frames of --every {m.config.every}.'
        plots[caption] = draw((9, 5.2), lambda ax: top_view(ax, m.path_at[:, 1:3], m.frames_at))
    return plots


def _rows(m: BagMeasured) -> list[tuple[str, str]]:
    """Return (topic, label) of sensors and poses, cameras in the rig's order first."""
    kinds = {topic: role.split(' ')[0] for topic, role in m.roles.items()}
    rows = [
        (topic, m.roles[topic])
        for kind in _SENSORS
        for topic in m.roles
        if kinds[topic] == kind and m.times[topic].first_s is not None
    ]
    return rows + [(e.name, e.name) for e in m.poses if e.name not in m.roles]


def _timeline(ax: Axes, m: BagMeasured, rows: list[tuple[str, str]]) -> None:
    times = {**m.times, **{edge.name: edge.times for edge in m.poses}}
    for y, (topic, _) in enumerate(rows):
        t = times[topic]
        assert t.first_s is not None and t.last_s is not None
        ax.barh(y, max(t.last_s - t.first_s, 0.02), 0.55, t.first_s, color=ACCENT, alpha=0.75)
        least = (t.last_s - t.first_s) / 400  # so that short gaps are seen
        for at_s, length_s in t.gaps:
            ax.barh(y, max(length_s, least), 0.55, at_s, color=BAD)
    ax.set_yticks(range(len(rows)), [label for _, label in rows])
    ax.set_xlim(0, max(m.seconds, 0.1))
    ax.invert_yaxis()
    ax.set_xlabel('seconds from the start of the recording')
    ax.grid(axis='y', visible=False)


def _spreads(ax: Axes, m: BagMeasured) -> None:
    spreads_ms = m.spreads_s * 1e3
    limit_ms = m.config.max_spread_s * 1e3
    top = max(float(spreads_ms.max()), limit_ms) * 1.06
    ax.hist(spreads_ms, bins=60, range=(0, top), color=ACCENT, alpha=0.85)
    ax.axvline(limit_ms, color=BAD, linewidth=1.2)
    ax.annotate(
        f'max_spread {limit_ms:g} ms',
        (limit_ms, 1),
        xycoords=('data', 'axes fraction'),
        xytext=(-4, -4),
        textcoords='offset points',
        ha='right',
        va='top',
        color=BAD,
    )
    ax.set_xlim(0, top)
    ax.set_xlabel('spread, ms')
    ax.set_ylabel('sets')
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _offsets(ax: Axes, m: BagMeasured, offsets: dict[str, Array]) -> None:
    for i, (topic, rows) in enumerate(offsets.items()):
        colour = COLOURS[i % len(COLOURS)]
        few = rows[:: max(1, len(rows) // 600)]
        ax.plot(
            few[:, 0], few[:, 1] * 1e3, '.', color=colour, markersize=2.5, label=m.roles[topic]
        )
    ax.set_xlabel('seconds from the start of the recording')
    ax.set_ylabel('bag − header, ms')
    if all((rows[:, 1] >= 0).all() for rows in offsets.values()):
        top = max(float(rows[:, 1].max()) for rows in offsets.values())
        ax.set_ylim(0, max(1.15e3 * top, 1.0))
    ax.legend(loc='center left', bbox_to_anchor=(1.01, 0.5), markerscale=4, frameon=False)


def top_view(ax: Axes, path: Array, frames: Array, speeds_mps: Array | None = None) -> None:
    """Draw a way from above, x to the right and y up, with a mark per frame.

    Args:
        ax: where.
        path: (n, 2) metres; rows of NaN interrupt the line.
        frames: (m, 2 or 3) metres.
        speeds_mps: (m,) colours the marks.
    """
    ax.plot(path[:, 0], path[:, 1], color=QUIET, linewidth=1.5, zorder=1)
    if len(frames):
        size = float(np.clip(3000 / len(frames), 4, 22))
        if speeds_mps is None:
            ax.scatter(frames[:, 0], frames[:, 1], s=size, color=ACCENT, zorder=2, label='frames')
        else:
            marks = ax.scatter(
                frames[:, 0],
                frames[:, 1],
                s=size,
                c=speeds_mps,
                cmap='viridis',
                vmin=0,
                vmax=max(float(np.nanmax(speeds_mps, initial=0)), 1.0),
                zorder=2,
            )
            ax.figure.colorbar(marks, ax=ax, label='speed, m/s', fraction=0.035, pad=0.02)
    known = path[np.isfinite(path).all(axis=-1)]
    for (x, y), text in ((known[0], 'start'), (known[-1], 'end')):
        ax.plot(x, y, 'o', color=INK, markersize=5, zorder=3)
        ax.annotate(text, (x, y), xytext=(7, 5), textcoords='offset points', color=INK)
    _square(ax, known)
    ax.set_xlabel('x in odom, m')
    ax.set_ylabel('y in odom, m')


def _square(ax: Axes, points: Array) -> None:
    """Choose limits of equal scale that hold all points, at least 10 m wide."""
    low, high = points.min(axis=0), points.max(axis=0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 5.0)
    corners = np.array([middle - half, middle + half])
    ax.scatter(corners[:, 0], corners[:, 1], s=0)  # only widens the limits
    ax.margins(0.08)
    ax.set_aspect('equal', adjustable='datalim')
