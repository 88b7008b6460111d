"""The node as a process: starting, refusing, sleeping, stopping."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

rclpy = pytest.importorskip('rclpy', reason='rclpy is not installed')

from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from .harness import NodeProcess, RigPublisher, drive  # noqa: E402

S = 10**9
T0 = 1_700_000_000 * S
PERIOD = S // 10


def test_without_tf_nothing_is_published(weights: Path, tmp_path: Path) -> None:
    with NodeProcess(tmp_path / 'log', checkpoint=str(weights)) as node, RigPublisher() as rig:
        rig.wait_connected()
        for step in range(5):
            rig.send_set(step, T0 + step * PERIOD)
        status = rig.wait(
            lambda: "frame 'odom' is not in TF" in rig.status().message and rig.status(),
            'diagnostics that say why',
        )
        assert status.message.startswith('nothing published; ')
        assert status.level == b'\x02'
        assert 'known frames: probe, probed' in status.message
        assert int(rig.values()['sets_in']) > 0
        assert not rig.grids
        # Once transforms come, the same node works.
        rig.send_static()
        drive(rig, T0 + 10 * S)
        rig.send_set(9, T0 + 11 * S)
        rig.wait(lambda: rig.grid_at('vehicle', T0 + 11 * S), 'grid')
        assert node.stop(signal.SIGTERM) == 0


def call(rig: RigPublisher, kind: type, name: str, request: object) -> object:
    client = rig.node.create_client(kind, name)
    rig.wait(client.service_is_ready, name)
    future = client.call_async(request)
    rig.wait(future.done, f'answer of {name}')
    return future.result()


def transition(rig: RigPublisher, number: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=number))
    return call(rig, ChangeState, '/bev_node/change_state', request).success


def set_parameter(rig: RigPublisher, name: str, value: object) -> object:
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return call(rig, SetParameters, '/bev_node/set_parameters', request).results[0]


def test_lifecycle_and_parameters(weights: Path, tmp_path: Path) -> None:
    """Wrong weights leave the node up; mended by a parameter, it works; it can be put to sleep."""
    wrong = tmp_path / 'wrong.safetensors'
    wrong.write_text('no weights')
    log = tmp_path / 'log'
    with NodeProcess(log, checkpoint=str(wrong), odom_frame="''") as node, RigPublisher() as rig:
        status = rig.wait(
            lambda: (
                rig.status() and 'no safetensors file' in rig.status().message and rig.status()
            ),
            'diagnostics that say why',
        )
        assert str(wrong) in status.message and status.level == b'\x02'
        refused = set_parameter(rig, 'sync.max_spread_s', 9.0)
        assert not refused.successful and '9' in refused.reason
        refused = set_parameter(rig, 'image_topic', '/one/for/all')
        assert not refused.successful and '{camera}' in refused.reason
        assert set_parameter(rig, 'checkpoint', str(weights)).successful
        assert set_parameter(rig, 'combined_classes', ['unicorn']).successful
        assert not transition(rig, Transition.TRANSITION_CONFIGURE)
        rig.wait(
            lambda: "combined_classes: ['unicorn'] unknown" in rig.status().message,
            'unknown class named',
        )
        assert set_parameter(rig, 'combined_classes', ['drivable_area']).successful
        assert transition(rig, Transition.TRANSITION_CONFIGURE)
        refused = set_parameter(rig, 'device', 'cuda')
        assert not refused.successful and 'unconfigured' in refused.reason
        assert transition(rig, Transition.TRANSITION_ACTIVATE)
        for cycle in range(2):
            rig.wait_connected()
            rig.send_static()
            stamp = T0 + (1 + cycle) * 10 * S
            rig.send_set(cycle, stamp)
            message = rig.wait(lambda s=stamp: rig.grid_at('vehicle', s), 'grid')
            assert message.info.origin.orientation.w == pytest.approx(1)
            combined = rig.wait(lambda s=stamp: rig.grid_at('combined', s), 'combined')
            assert combined.data == rig.grid_at('drivable_area', stamp).data
            assert transition(rig, Transition.TRANSITION_DEACTIVATE)
            rig.wait_disconnected()
            assert transition(rig, Transition.TRANSITION_ACTIVATE)
        assert transition(rig, Transition.TRANSITION_DEACTIVATE)
        assert transition(rig, Transition.TRANSITION_CLEANUP)
        assert node.stop() == 0


def test_a_refused_parameter_ends_in_one_line(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / 'log', tf_timeout_s='-1.0')
    assert node.process.wait(30) == 1
    lines = node.text().strip().splitlines()
    assert len(lines) == 1 and 'tf_timeout_s' in lines[0] and '-1.0' in lines[0]


@pytest.mark.parametrize('second', [None, signal.SIGINT])
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_stops_with_exit_code_zero(
    weights: Path, tmp_path: Path, number: int, second: int | None
) -> None:
    with NodeProcess(tmp_path / 'log', checkpoint=str(weights)) as node, RigPublisher() as rig:
        rig.wait_connected()
        rig.send_static()
        rig.send_set(1, T0)
        node.process.send_signal(number)
        if second:
            node.process.send_signal(second)
        assert node.process.wait(30) == 0, node.text()


@pytest.mark.parametrize('where', ['warm_up', 'subscribe'])
def test_a_transition_that_raises_is_told_and_can_be_repeated(
    weights: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    from lifecycle_msgs.msg import State
    from rclpy.lifecycle import TransitionCallbackReturn

    from bev_perception.ros import bev_node

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError('out of memory')

    context = rclpy.Context()
    rclpy.init(context=context)
    overrides = [Parameter('autostart', value=False), Parameter('checkpoint', value=str(weights))]
    node = bev_node.BevNode(context=context, parameter_overrides=overrides)
    try:
        with monkeypatch.context() as patch:
            target = bev_node.Predictor if where == 'warm_up' else bev_node
            patch.setattr(target, where, broken)
            if where == 'subscribe':
                assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
                assert node.trigger_activate() == TransitionCallbackReturn.FAILURE
            else:
                assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
            status = node.health.report('n', node.get_clock().now().to_msg(), None, None).status[0]
            assert status.level == b'\x02' and 'out of memory' in status.message
        if where == 'warm_up':
            assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        assert node._state_machine.current_state[0] == State.PRIMARY_STATE_ACTIVE
        assert node.count_publishers('/bev_node/grid/vehicle') == 1
        assert node.count_subscribers('/tf_static') == 1
    finally:
        node.close()
        node.destroy_node()
        rclpy.shutdown(context=context)
