"""Play a recorded drive into the BEV node.

    ros2 launch bev_perception replay.launch.py bag:=drive checkpoint:=model.safetensors
    ros2 launch bev_perception replay.launch.py --show-args

Takes every argument of bev.launch.py as well. Playing starts when the node is active, so no frame
is lost while the weights load. Everything is shut down when the bag has ended; also, with exit
code 1, when the node could not be configured or activated, or when a process has failed.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import Event, LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import StateTransition

from bev_perception.ros.transport import use_shared_memory_profile

BEV_LAUNCH = Path(get_package_share_directory('bev_perception')) / 'launch' / 'bev.launch.py'

ARGUMENTS = [
    DeclareLaunchArgument(
        'bag', description='The recorded drive: a bag folder, .mcap, .db3 or .bag'
    ),
    DeclareLaunchArgument(
        'rate', default_value='1.0', description='Playback speed; 1.0 is real time'
    ),
    DeclareLaunchArgument(
        'loop',
        default_value='false',
        choices=['true', 'false', 'True', 'False'],
        description='Start over at the end of the bag instead of shutting down',
    ),
    DeclareLaunchArgument(
        'start_offset', default_value='0.0', description='Seconds of the bag to skip at its start'
    ),
    DeclareLaunchArgument(
        'clock', default_value='100', description='Rate in Hz at which /clock is published'
    ),
]


def is_bev_node(action: object) -> bool:
    """Whether `action` is the node that bev.launch.py started."""
    return isinstance(action, LifecycleNode) and action.node_name.endswith('/bev_node')


def has_become_active(event: Event) -> bool:
    """Whether `event` says that the BEV node is active."""
    return (
        isinstance(event, StateTransition)
        and is_bev_node(event.action)
        and event.goal_state == 'active'
    )


def has_failed_to_start(event: Event) -> bool:
    """Whether `event` says that the BEV node could not be configured or activated."""
    return (
        isinstance(event, StateTransition)
        and is_bev_node(event.action)
        and event.start_state in ('configuring', 'activating', 'errorprocessing')
        and event.goal_state in ('unconfigured', 'finalized')
    )


def give_up(context: LaunchContext) -> None:
    """End with exit code 1 because the node did not start."""
    raise RuntimeError('bev_node could not be started; its message above says why')


def stop(event: ProcessExited, context: LaunchContext) -> list:
    """Shut everything down after a process has ended, with exit code 1 if it failed."""
    # While everything is being shut down, launch_ros takes a second request for an error.
    if context.is_shutdown:
        return []
    if event.returncode:
        raise RuntimeError(f'{event.process_name} ended with exit code {event.returncode}')
    return [Shutdown(reason=f'{event.process_name} has finished')]


def start(context: LaunchContext) -> list:
    """Actions that depend on the values of the arguments."""
    names = [argument.name for argument in ARGUMENTS]
    arguments = {name: LaunchConfiguration(name).perform(context) for name in names}
    bag = Path(arguments['bag']).expanduser()
    # Said here because the player starts only once the weights are loaded.
    if not bag.exists():
        raise FileNotFoundError(f'bag: {bag} does not exist')
    environment = dict(context.environment)
    use_shared_memory_profile(environment)
    loop = ['--loop'] if arguments['loop'].lower() == 'true' else []
    player = Node(
        package='bev_perception',
        executable='bag_player',
        arguments=[
            str(bag),
            *('--rate', arguments['rate']),
            *('--start-offset', arguments['start_offset']),
            *('--clock', arguments['clock']),
            # The node subscribes before it says that it is active, but DDS needs a moment more.
            *('--wait-for-subscribers', '1'),
            *loop,
        ],
        output='screen',
        emulate_tty=True,
        env=environment,
    )
    handlers = (
        OnStateTransition(matcher=has_become_active, entities=[player], handle_once=True),
        OnStateTransition(
            matcher=has_failed_to_start, entities=[OpaqueFunction(function=give_up)]
        ),
        OnProcessExit(target_action=player, on_exit=stop),
        OnProcessExit(target_action=is_bev_node, on_exit=stop),
    )
    return [RegisterEventHandler(handler) for handler in handlers]


def generate_launch_description() -> LaunchDescription:
    """The bag player on top of what bev.launch.py starts."""
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(BEV_LAUNCH)),
        # The node must live in the time of the recording, whatever the parameter file says.
        launch_arguments={'use_sim_time': 'true'}.items(),
    )
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start), node])
