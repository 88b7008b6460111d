"""What is wrong with a recording, from its measurements."""

from __future__ import annotations

from collections.abc import Iterator

from bev_training.inspection import calibration_checks as checks
from bev_training.inspection.bag_measurements import BagMeasured
from bev_training.inspection.findings import Finding, in_order
from bev_training.inspection.sync_rules import sync_findings
from bev_training.inspection.time_rules import time_findings

Found = tuple[str, str, str]  # rule, where, text

_UNLOCATED_SHARE = 0.02
_EDGE_SETS = 4  # poses may begin after and end before the images
_POSE_GAP_S = 0.2
_SLOW_POSE_HZ = 10.0
_STANDS_M = 2.0
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
        yield 'BAG002', topic, f'{count} of {total} messages cannot be read: {problem}'
    yield from m.refusals
    if m.quick:
        yield 'BAG004', '', f'the first 60 s of {m.seconds:.0f} s were read'


def _poses(m: BagMeasured) -> Iterator[Found]:
    for sensor, problem in m.unconnected.items():
        yield 'BAG030', sensor, problem
    odom, base = m.config.odom_frame, m.config.base_frame
    if m.refusals or not odom:
        return
    without = m.counts.get('sets_without_pose', 0)
    reason = m.problems.get('sets_without_pose', '')
    if m.sets and without == m.sets:
        yield 'BAG031', f'{odom} -> {base}', f'none of {m.sets} sets has a pose: {reason}'
    elif without > max(_UNLOCATED_SHARE * m.sets, _EDGE_SETS):
        share = without / m.sets
        yield (
            'BAG032',
            f'{odom} -> {base}',
            f'{without} of {m.sets} sets ({share:.1%}) have no pose; the first: {reason}',
        )
    for edge in m.poses:
        t = edge.times
        long = [g for g in t.gaps if g[1] > _POSE_GAP_S]
        if long:
            yield (
                'BAG033',
                edge.name,
                f'{len(long)} gaps over {_POSE_GAP_S} s, the longest {long[0][1]:.2f} s at '
                f'{long[0][0]:.1f} s',
            )
        if edge.jumps:
            yield (
                'BAG034',
                edge.name,
                f'{edge.jumps} jumps, the widest {edge.worst_jump_m:.1f} m at '
                f'{edge.worst_jump_at_s:.1f} s',
            )
        if t.period_s and 1 / t.period_s < _SLOW_POSE_HZ:
            yield 'BAG036', edge.name, f'{1 / t.period_s:.1f} poses per second'
    if without < m.sets and m.metres < _STANDS_M and m.seconds > 0:
        yield 'BAG035', '', f'{m.metres:.2f} m in {m.seconds:.0f} s'


def _calibration(m: BagMeasured) -> Iterator[Found]:
    for topic, problem in m.refused.items():
        yield 'BAG040', topic, problem
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
            yield 'BAG046', name, f'CameraInfo changes {meter.changes} times'
        other = [size for size in meter.sizes if size != meter.camera.size_px]
        refused = any(name in text for text in m.refused.values())
        if other and not refused:
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
                f'{camera.damaged} of {total} images are damaged; the first: {camera.problem}',
            )
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
                f'{lidar.empty} empty and {lidar.damaged} damaged sweeps of {lidar.sweeps}{why}',
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
