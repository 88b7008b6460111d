"""Where the vehicle's pose comes from: TF, or a topic with poses."""

from __future__ import annotations

from bev_perception.errors import BagError, MessageError
from bev_perception.messages import read_pose
from bev_training.data.bag_reader import Recording
from bev_training.data.frame_trees import FrameTrees
from bev_training.data.settings import ConvertConfig

ODOMETRY = 'nav_msgs/msg/Odometry'
POSES = (
    ODOMETRY,
    'geometry_msgs/msg/PoseStamped',
    'geometry_msgs/msg/PoseWithCovarianceStamped',
)
_LISTED = 12


def choose_odometry(recording: Recording, config: ConvertConfig, trees: FrameTrees) -> str:
    """Return the topic that gives the ego pose, '' for TF; it joins `trees`.

    A topic that the settings name is taken. Otherwise TF counts where it connects `odom_frame`
    and `base_frame`; where it does not, the only Odometry topic does that gives the pose of
    `base_frame` or of a frame above it: in `odom_frame`, or in any frame where the settings leave
    `odom_frame` as it is.

    Raises:
        BagError: the topic cannot be used, or nothing gives the pose.
    """
    if config.odometry_topic:
        _, child = _described(recording, config.odometry_topic, config)
        if child not in trees.above(config.base_frame):
            raise BagError(
                f'{recording.path}: {config.odometry_topic} gives the pose of {child!r}, which is '
                f'neither base_frame {config.base_frame!r} nor above it; {trees}; --base-frame '
                'names another'
            )
        return _joined(config.odometry_topic, child, config, trees)
    if not config.odom_frame or trees.connected(config.odom_frame, config.base_frame):
        return ''
    fitting, texts = {}, []
    for info in recording.topics.values():
        if info.type != ODOMETRY or not info.messages:
            continue
        try:
            parent, child = _described(recording, info.name, config)
        except BagError:
            texts.append(f'{info.name} (unreadable)')
            continue
        texts.append(f'{info.name} (pose of {child!r} in {parent!r})')
        wanted = config.odom_frame in (parent, ConvertConfig().odom_frame)
        if wanted and child in trees.above(config.base_frame):
            fitting[info.name] = child
    if len(fitting) == 1:
        ((topic, child),) = fitting.items()
        return _joined(topic, child, config, trees)
    more = ', ...' if len(texts) > _LISTED else ''
    topics = (
        f'Odometry topics: {", ".join(texts[:_LISTED])}{more}' if texts else 'no Odometry topic'
    )
    raise BagError(
        f'{recording.path}: no path from odom_frame {config.odom_frame!r} to base_frame '
        f'{config.base_frame!r}: {trees}; {topics}. --odom-frame and --base-frame name other '
        "frames, --odometry TOPIC takes a topic, --odom-frame '' --every 0.5s goes without"
    )


def _joined(topic: str, child: str, config: ConvertConfig, trees: FrameTrees) -> str:
    if config.odom_frame:
        trees.add(config.odom_frame, child)
    return topic


def _described(recording: Recording, topic: str, config: ConvertConfig) -> tuple[str, str]:
    """Return in which frame a topic gives the pose of which.

    Raises:
        BagError: it is not there, of another type, or its first message cannot be used.
    """
    info = recording.topics.get(topic)
    if info is None or info.type not in POSES:
        have = [t.name for t in recording.topics.values() if t.type in POSES]
        what = 'has no topic' if info is None else f'has {info.type} on'
        raise BagError(
            f'{recording.path} {what} {topic}; Odometry and poses are on '
            f'{", ".join(have[:_LISTED]) or "no topic"}'
        )
    first = recording.first(topic)
    if first is None:
        problem = recording.first_problem.get(topic, 'it has none')
        raise BagError(f'{recording.path}: no message of {topic} can be read: {problem}')
    try:
        pose = read_pose(first[1], config.base_frame)
    except MessageError as error:
        raise BagError(f'{recording.path}: {topic}: {error}') from error
    return pose.parent, pose.child
