"""What is wrong with a recording, from its measurements."""

from __future__ import annotations

from collections.abc import Iterator

from bev_training.inspection import calibration_checks as checks
from bev_training.inspection.bag_measurements import QUICK_NS, BagMeasured
from bev_training.inspection.findings import Finding, in_order, plural
from bev_training.inspection.sensor_meters import CameraMeter
from bev_training.inspection.sync_rules import sync_findings
from bev_training.inspection.time_rules import time_findings

Found = tuple[str, str, str]  # rule, where, text

_UNLOCATED_SHARE = 0.02
_EDGE_SETS = 4  # poses may begin after and end before the images
_POSE_GAP_S, _POSE_GAP_PERIODS = 0.25, 5  # as the transform tree's, which refuses them
_SLOW_POSE_HZ = 10.0
_STANDS_M, _STANDS_MPS = 2.0, 0.5  # both: a short recording is no standing vehicle
_WAITING_SHARE = 0.05
_LOST_SHARE = 0.01  # of sweeps
_NO_SWEEP_SHARE = 0.1  # of frames
_INTRINSIC_RULES = {checks.FOCAL: 'BAG042', checks.CENTRE: 'BAG043', checks.VIEW: 'BAG044'}
_MOUNT_RULES = {checks.MOUNT: 'BAG047', checks.TWINS: 'BAG048', checks.AXIS: 'BAG049'}


def bag_findings(m: BagMeasured) -> tuple[Finding, ...]:
    """Apply every rule; worst first."""
    found = [
        *_reading(m),
        *time_findings(m),
        *sync_findings(m),
        *_poses(m),
        *_calibration(m),
        *_content(m),
    ]
    return in_order(
        Finding(rule=rule, subject=str(m.path), where=where, text=text)
        for rule, where, text in found
    )


def _reading(m: BagMeasured) -> Iterator[Found]:
    for topic, (count, problem) in m.unreadable.items():
        total = m.topics[topic].messages
        yield 'BAG002', topic, f'{count} of {plural(total, "message")} cannot be read: {problem}'
    yield from m.refusals
    if m.ended and not m.refused:
        yield 'BAG006', '', f'at {m.ended_at_s:.1f} s: {m.ended}'
    if m.cut:
        yield 'BAG004', '', f'the first {QUICK_NS / 1e9:.0f} s of {m.seconds:.0f} s were read'


def _poses(m: BagMeasured) -> Iterator[Found]:
    for sensor, problem in m.unconnected.items():
        yield 'BAG030', sensor, problem
    odom, base = m.config.odom_frame, m.config.base_frame
    if m.refusals or not odom:
        return
    without = m.counts.get('sets_without_pose', 0)
    reason = m.problems.get('sets_without_pose', '')
    if m.sets and without == m.sets:
        yield (
            'BAG031',
            f'{odom} -> {base}',
            f'none of {plural(m.sets, "set")} has a pose: {reason}',
        )
    elif without > max(_UNLOCATED_SHARE * m.sets, _EDGE_SETS):
        share = without / m.sets
        yield (
            'BAG032',
            f'{odom} -> {base}',
            f'{without:,} of {plural(m.sets, "set")} ({share:.1%}) without a pose; the first: '
            f'{reason}',
        )
    for edge in m.poses:
        t = edge.times
        long = [
            g for g in t.gaps if g[1] > max(_POSE_GAP_S, _POSE_GAP_PERIODS * (t.period_s or 0))
        ]
        if long:
            yield (
                'BAG033',
                edge.name,
                f'no poses in {plural(len(long), "gap")}, the longest '
                f'{long[0][1]:.2f} s at {long[0][0]:.1f} s',
            )
        if edge.jumps:
            yield (
                'BAG034',
                edge.name,
                f'{plural(edge.jumps, "jump")}, the widest {edge.worst_jump_m:.1f} m at '
                f'{edge.worst_jump_at_s:.1f} s',
            )
        if t.period_s and 1 / t.period_s < _SLOW_POSE_HZ:
            yield 'BAG036', edge.name, f'{1 / t.period_s:.1f} poses per second'
    yield from _breaks(m)
    measured = m.sets > 1 and without < m.sets and not m.ended
    if measured and m.metres < min(_STANDS_M, _STANDS_MPS * m.seconds):
        yield 'BAG035', '', f'{m.metres:.2f} m in {m.seconds:.0f} s'


def _breaks(m: BagMeasured) -> Iterator[Found]:
    """Tell what ends a row of neighbouring frames, unless jumps of a transform told it."""
    parts = []
    if clocks := m.counts.get('tf_clock_jumps', 0):
        parts.append(f'the clock of transforms goes back {plural(clocks, "time")}')
    jumps = m.counts.get('odometry_jumps', 0)
    if jumps and not any(edge.jumps for edge in m.poses):
        parts.append(f'the pose jumps {plural(jumps, "time")} from one set to the next')
    if parts:
        yield 'BAG037', f'{m.config.odom_frame} -> {m.config.base_frame}', ', '.join(parts)


def _calibration(m: BagMeasured) -> Iterator[Found]:
    if m.refused:
        name, _, problem = m.ended.partition(': ')
        yield 'BAG040', name, f'{problem} (at {m.ended_at_s:.1f} s)'
    for name, meter in m.cameras.items():
        if meter.info_unusable and not m.refusals:
            yield (
                'BAG045',
                name,
                f'{meter.info_unusable} CameraInfo cannot be used: {meter.info_problem}',
            )
        if meter.camera is None:
            continue
        for check, text in checks.check_intrinsics(meter.camera):
            yield _INTRINSIC_RULES[check], name, text
        if meter.changes:
            yield 'BAG046', name, f'CameraInfo changes {plural(meter.changes, "time")}'
        other = [size for size in meter.sizes if size != meter.camera.size_px]
        if other and not (m.refused and m.ended.startswith(f'{name}: ')):
            width, height = other[0]
            full = meter.camera.size_px
            yield (
                'BAG041',
                name,
                f'images of {width}x{height}, CameraInfo of {full[0]}x{full[1]}: '
                f'K is scaled by {width / full[0]:.3g}',
            )
    if m.epochs > 1 and not any(meter.changes for meter in m.cameras.values()):
        yield 'BAG046', '', f'{m.epochs} calibrations: a static transform changes'
    for check, camera, text in checks.check_mounting(m.base_T_cam):
        yield _MOUNT_RULES[check], camera, text


def _content(m: BagMeasured) -> Iterator[Found]:
    for name, camera in m.cameras.items():
        if camera.damaged:
            total = camera.formats.total()
            yield (
                'BAG050',
                name,
                f'{camera.damaged} of {plural(total, "image")} damaged; the first: '
                f'{camera.problem}',
            )
        yield from _video(name, camera)
        if len(camera.sizes) > 1:
            sizes = ', '.join(f'{w}x{h} ({n})' for (w, h), n in camera.sizes.most_common(4))
            yield 'BAG051', name, f'{len(camera.sizes)} sizes: {sizes}'
    for name, lidar in m.lidars.items():
        bad = lidar.empty + lidar.damaged
        if bad:
            why = f': {lidar.problem}' if lidar.problem else ''
            yield (
                'BAG052',
                name,
                f'of {plural(lidar.sweeps, "sweep")} {lidar.empty} empty, {lidar.damaged} '
                f'damaged{why}',
            )
        lacks = [
            what
            for what, names in {
                'ring': ('ring', 'channel', 'line', 'laser_id'),
                'time': ('t', 'time', 'timestamp', 'time_stamp', 'offset_time', 'time_s'),
            }.items()
            if not set(names) & {field.lower() for field in lidar.fields}
        ]
        if lidar.sweeps and lacks:
            yield (
                'BAG053',
                name,
                f'no {" and no ".join(lacks)}; fields are {", ".join(lidar.fields)}',
            )
    yield from _sweeps(m)


def _sweeps(m: BagMeasured) -> Iterator[Found]:
    sweeps = sum(lidar.sweeps for lidar in m.lidars.values())
    counts = {
        'repeated': m.counts.get('sweeps_twice', 0),
        'later than a frame that they belong to': m.counts.get('sweeps_late', 0),
        'with other fields than the first': sum(x.other_fields for x in m.lidars.values()),
    }
    if sum(counts.values()) > max(_LOST_SHARE * sweeps, _EDGE_SETS):
        told = ', '.join(f'{count} {what}' for what, count in counts.items() if count)
        yield 'BAG055', '', f'of {plural(sweeps, "sweep")} {told}'
    lacking = m.counts.get('frames_without_sweep', 0)
    if lacking > _NO_SWEEP_SHARE * m.frames:
        yield 'BAG056', '', f'{lacking} of {plural(m.frames, "frame")} without a sweep'


def _video(name: str, camera: CameraMeter) -> Iterator[Found]:
    damaged, waiting, gaps = (
        camera.video.get(f'video_{what}', 0) for what in ('damaged', 'waiting', 'gaps')
    )
    packets = camera.formats.total()
    # A recording mostly begins between two key pictures: that is none's fault, if it is short.
    if damaged or gaps or waiting > _WAITING_SHARE * packets:
        yield (
            'BAG054',
            name,
            f'{damaged + waiting} of {plural(packets, "packet")}: {damaged} damaged, {waiting} '
            f'wait for a key picture; packets are lost at {plural(gaps, "place")}',
        )
