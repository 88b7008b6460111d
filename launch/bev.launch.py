"""Start the BEV node and bring it to its active state.

    ros2 launch bev_perception bev.launch.py checkpoint:=/path/to/model.safetensors
    ros2 launch bev_perception bev.launch.py --show-args

The node is a managed (lifecycle) node. This file asks it to configure (load the weights) as soon
as its process runs, and to activate once configuring has succeeded. A node that could not be
configured says why and stays up: `ros2 lifecycle set /bev_node configure` tries again.

Arguments left empty change nothing: the value in the parameter file stands.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.msg import Transition

from bev_perception.ros.transport import use_shared_memory_profile

CONFIG = Path(get_package_share_directory('bev_perception')) / 'config'
# From seeing the node's publisher to the node having seen launch's subscription.
DISCOVERY_S = 0.3

ARGUMENTS = [
    DeclareLaunchArgument(
        'params_file',
        default_value=str(CONFIG / 'bev_node.yaml'),
        description='Parameter file: a path, or a name in the config folder of bev_perception',
    ),
    DeclareLaunchArgument(
        'checkpoint',
        default_value='',
        description='Trained weights (.safetensors); empty: as in params_file',
    ),
    DeclareLaunchArgument(
        'device', default_value='', description="'auto', 'cpu' or 'cuda'; empty: as in params_file"
    ),
    DeclareLaunchArgument(
        'image_transport',
        default_value='',
        choices=['', 'compressed', 'raw'],
        description='How the cameras publish; empty: as in params_file',
    ),
    DeclareLaunchArgument(
        'use_sim_time',
        default_value='',
        choices=['', 'true', 'false', 'True', 'False'],
        description='Take the time from /clock; empty: as in params_file',
    ),
    DeclareLaunchArgument(
        'namespace', default_value='', description='Namespace of the node and of its output topics'
    ),
    DeclareLaunchArgument(
        'rviz',
        default_value='false',
        description='Also open RViz on the published grids and images',
    ),
    DeclareLaunchArgument(
        'log_level',
        default_value='info',
        choices=['debug', 'info', 'warn', 'error', 'fatal'],
        description='Least severe messages that the node prints',
    ),
]


def params_file(name: str) -> str:
    """Path of the parameter file; about a missing one launch itself would only warn."""
    for path in (Path(name).expanduser(), CONFIG / name):
        if path.is_file():
            return str(path)
    raise FileNotFoundError(
        f'params_file: {name} is neither a file nor the name of one in {CONFIG}'
    )


def overrides(arguments: dict[str, str]) -> dict[str, object]:
    """Node parameters that the launch arguments set; those left empty are not among them."""
    given: dict[str, object] = {
        # As text whatever it looks like: a checkpoint may be called 10.
        name: ParameterValue(os.path.expanduser(arguments[name]), value_type=str)
        for name in ('checkpoint', 'device', 'image_transport')
        if arguments[name]
    }
    if arguments['use_sim_time']:
        given['use_sim_time'] = arguments['use_sim_time'].lower() == 'true'
    # The events below change the node's state; it must not do so by itself as well.
    return given | {'autostart': False}


def bring_up(node: LifecycleNode) -> list[RegisterEventHandler]:
    """Handlers that configure the node when its process runs, and then activate it."""

    def request(transition_id: int) -> ChangeState:
        return ChangeState(
            lifecycle_node_matcher=matches_action(node), transition_id=transition_id
        )

    async def configure_once_heard(context: LaunchContext) -> None:
        # A transition that ends before the node has discovered launch's subscription would go
        # unnoticed, and the node would never be activated.
        events = f'{node.node_name}/transition_event'
        while not context.is_shutdown and not get_ros_node(context).count_publishers(events):
            await asyncio.sleep(0.05)
        await asyncio.sleep(DISCOVERY_S)
        if not context.is_shutdown:
            await context.emit_event(request(Transition.TRANSITION_CONFIGURE))

    def configure(context: LaunchContext) -> None:
        context.add_completion_future(
            context.asyncio_loop.create_task(configure_once_heard(context))
        )

    activate = EmitEvent(event=request(Transition.TRANSITION_ACTIVATE))
    handlers = (
        OnProcessStart(target_action=node, on_start=[OpaqueFunction(function=configure)]),
        # Only after configuring: a node that somebody deactivates is to stay inactive.
        OnStateTransition(
            target_lifecycle_node=node,
            start_state='configuring',
            goal_state='inactive',
            entities=[activate],
        ),
    )
    return [RegisterEventHandler(handler) for handler in handlers]


def start(context: LaunchContext) -> list:
    """Actions that depend on the values of the arguments."""
    names = [argument.name for argument in ARGUMENTS]
    arguments = {name: LaunchConfiguration(name).perform(context) for name in names}
    given = overrides(arguments)
    # For the processes below, and only where the user has not chosen a transport already.
    environment = dict(context.environment)
    use_shared_memory_profile(environment)
    node = LifecycleNode(
        package='bev_perception',
        executable='bev_node',
        name='bev_node',
        namespace=arguments['namespace'],
        parameters=[params_file(arguments['params_file']), given],
        arguments=['--ros-args', '--log-level', arguments['log_level']],
        output='screen',
        emulate_tty=True,
        env=environment,
    )
    # The topics in bev.rviz are relative, so RViz finds them through its own namespace.
    rviz = Node(
        package='rviz2',
        executable='rviz2',
        namespace=arguments['namespace'],
        arguments=['-d', str(CONFIG / 'bev.rviz')],
        parameters=[{'use_sim_time': given.get('use_sim_time', False)}],
        condition=IfCondition(arguments['rviz']),
        output='screen',
        env=environment,
    )
    return [*bring_up(node), node, rviz]


def generate_launch_description() -> LaunchDescription:
    """The node, its two lifecycle requests, and RViz where it was asked for."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])
