"""Pictures of a recording: silent sensors, spread of the sets, clocks, the way driven."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bev_perception.shapes import Array
from bev_training.inspection.bag_measurements import BagMeasured
from bev_training.inspection.drawing import ACCENT, BAD, COLOURS, INK, QUIET, SOFT, bar, draw

_SENSORS = ('camera', 'lidar', 'odometry')
_ROW_IN = 0.3
_MARKS = (('.', 3.0), ('x', 2.5), ('+', 3.0))  # where there are more sensors than colours
_DOTS = 60  # of a topic
_TOP_IN = (9.0, 2.6, 6.5)  # width, least and largest height


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
        path = m.path_at[:, 1:3]
        plots[caption] = draw(top_size_in(path), lambda ax: top_view(ax, path, m.frames_at))
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
        ax.barh(y, max(t.last_s - t.first_s, 0.02), 0.55, t.first_s, color=SOFT)
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
    counts, *_ = ax.hist(spreads_ms, bins=60, range=(0, top), color=ACCENT, alpha=0.85)
    ax.set_ylim(0, 1.3 * float(np.max(counts)))  # room for the words
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
        fontsize=8.5,
    )
    ax.set_xlim(0, top)
    ax.set_xlabel('spread, ms')
    ax.set_ylabel('sets')
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _offsets(ax: Axes, m: BagMeasured, offsets: dict[str, Array]) -> None:
    for i, (topic, rows) in enumerate(offsets.items()):
        colour = COLOURS[i % len(COLOURS)]
        mark, size = _MARKS[i // len(COLOURS) % len(_MARKS)]
        few = _telling(rows, i / len(offsets))
        ax.plot(
            few[:, 0],
            few[:, 1] * 1e3,
            mark,
            color=colour,
            markersize=size,
            label=m.roles[topic],
        )
    ax.set_xlabel('seconds from the start of the recording')
    ax.set_ylabel('bag − header, ms')
    if all((rows[:, 1] >= 0).all() for rows in offsets.values()):
        top = max(float(rows[:, 1].max()) for rows in offsets.values())
        ax.set_ylim(0, max(1.15e3 * top, 1.0))
    ax.legend(
        loc='center left',
        bbox_to_anchor=(1.01, 0.5),
        markerscale=3,
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
    )


def _telling(rows: Array, shift: float) -> Array:
    """Return about 60 of the rows (n, 2), those that lie furthest from the median.

    A shift of 0..1 between two of them keeps topics of equal values from hiding each other.
    """
    step = max(1, len(rows) // _DOTS)
    rows = rows[int(shift * step) :]
    away = np.abs(rows[:, 1] - np.median(rows[:, 1]))
    chosen = [i + int(np.argmax(away[i : i + step])) for i in range(0, len(rows), step)]
    return np.asarray(rows[chosen])


def top_size_in(path: Array) -> tuple[float, float]:
    """Return the size of `top_view`'s figure for a way (n, 2): a straight one needs no height."""
    known = path[np.isfinite(path).all(axis=-1)]
    wide, high = np.maximum(known.max(axis=0) - known.min(axis=0), 10.0)
    width, least, most = _TOP_IN
    return width, float(np.clip(0.9 * width * high / wide + 0.8, least, most))


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
            bar(ax.figure.colorbar(marks, ax=ax, fraction=0.035, pad=0.02), 'speed, m/s')
    known = path[np.isfinite(path).all(axis=-1)]
    for (x, y), text in ((known[0], 'start'), (known[-1], 'end')):
        ax.plot(x, y, 'o', color=INK, markersize=5, zorder=3)
        ax.annotate(text, (x, y), xytext=(7, 5), textcoords='offset points', color=INK, fontsize=9)
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
