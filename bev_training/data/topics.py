"""Which topics of a recording are read: cameras, lidars, transforms, odometry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bev_perception.errors import BagError, ConfigError
from bev_training.data.bag_reader import Recording
from bev_training.data.camera_topics import CameraTopics, choose_cameras
from bev_training.data.ego_topics import choose_odometry
from bev_training.data.frame_trees import FrameTrees, look_at_frames
from bev_training.data.settings import ConvertConfig
from bev_training.data.video import sensor_frame_id

__all__ = ['CameraTopics', 'RigTopics', 'choose_topics', 'first_frame']

POINT_CLOUD = 'sensor_msgs/msg/PointCloud2'
TF = 'tf2_msgs/msg/TFMessage'


@dataclass(frozen=True, kw_only=True)
class RigTopics:
    """The topics of a rig.

    Attributes:
        cameras: in the rig's order.
        lidars: PointCloud2 topic by name.
        tf: topics of moving transforms.
        tf_static: topics of static ones.
        odometry: topic that gives the ego pose instead of TF; '' = TF.
    """

    cameras: tuple[CameraTopics, ...]
    lidars: Mapping[str, str]
    tf: tuple[str, ...]
    tf_static: tuple[str, ...]
    odometry: str

    @property
    def all(self) -> tuple[str, ...]:
        """Every topic to read, each once."""
        topics = [t for c in self.cameras for t in (c.image, c.info)]
        topics += [*self.lidars.values(), *self.tf, *self.tf_static]
        return tuple(dict.fromkeys(topics + ([self.odometry] if self.odometry else [])))


def choose_topics(recording: Recording, config: ConvertConfig) -> RigTopics:
    """Return the topics that a recording is converted from.

    Cameras: see `choose_cameras`. Lidars: those of the settings, else the only PointCloud2 topic.
    TF: /tf and /tf_static, or those in namespaces where these are absent. Ego pose: see
    `choose_odometry`. Every sensor's frame must be connected with `base_frame`.

    Raises:
        BagError: something is missing; says what there is.
        ConfigError: several lidars to choose from.
    """
    cameras = choose_cameras(recording, config)
    lidars = _lidars(recording, config)
    tf, tf_static = _transforms(recording, 'tf'), _transforms(recording, 'tf_static')
    frames = {f'camera {c.name!r} ({c.image})': first_frame(recording, c.image) for c in cameras}
    for name, topic in lidars.items():
        frames[f'lidar {name!r} ({topic})'] = first_frame(recording, topic)

    def enough(trees: FrameTrees) -> bool:
        with_odom = config.odom_frame and not config.odometry_topic
        needed = [*frames.values(), *([config.odom_frame] if with_odom else [])]
        return all(trees.connected(config.base_frame, frame) for frame in needed)

    trees = look_at_frames(recording, tf, tf_static, enough)
    odometry = choose_odometry(recording, config, trees)
    for sensor, frame in frames.items():
        if not trees.connected(config.base_frame, frame):
            without = '; --no-lidar goes without' if sensor.startswith('lidar') else ''
            raise BagError(
                f'{recording.path}: {sensor} is in frame {frame!r}, which TF does not connect '
                f'with base_frame {config.base_frame!r}; {trees}{without}'
            )
    return RigTopics(cameras=cameras, lidars=lidars, tf=tf, tf_static=tf_static, odometry=odometry)


def first_frame(recording: Recording, topic: str) -> str:
    """Return the frame of a topic's first message.

    Raises:
        BagError: no message can be read, or it names no frame.
    """
    first = recording.first(topic)
    if first is None:
        problem = recording.first_problem.get(topic, 'it has none')
        raise BagError(f'{recording.path}: no message of {topic} can be read: {problem}')
    frame = sensor_frame_id(first[1])
    if not frame:
        raise BagError(f'{recording.path}: messages of {topic} have an empty frame_id')
    return frame


def _lidars(recording: Recording, config: ConvertConfig) -> dict[str, str]:
    if config.max_sweeps == 0:
        return {}
    topics = [t for t in recording.topics.values() if t.type == POINT_CLOUD and t.messages]
    names = [topic.name for topic in topics]
    if config.lidars is not None:
        for name, topic in config.lidars.items():
            if topic not in names:
                raise BagError(
                    f'{recording.path}: no point clouds of lidar {name!r} on {topic}; '
                    f'PointCloud2 topics are {", ".join(names) or "none"}'
                )
        return dict(config.lidars)
    if len(names) > 1:
        raise ConfigError(
            f'{recording.path} has the PointCloud2 topics {", ".join(names)}; --lidar NAME=TOPIC '
            'names one (or several, by more of them), --no-lidar none'
        )
    return {'lidar': names[0]} if names else {}


def _transforms(recording: Recording, name: str) -> tuple[str, ...]:
    found = [t.name for t in recording.topics.values() if t.type == TF and t.messages]
    plain = tuple(topic for topic in found if topic in (name, f'/{name}'))
    return plain or tuple(topic for topic in found if topic.endswith(f'/{name}'))
