"""The topics of a recording's rig, also where a conversion would refuse them, and why it would."""

from __future__ import annotations

from dataclasses import dataclass

from bev_perception.errors import BagError, BevError, CalibrationError
from bev_training.data.bag_reader import Recording
from bev_training.data.beginning import Beginning, read_beginning
from bev_training.data.camera_topics import CameraTopics, choose_cameras
from bev_training.data.ego_topics import choose_odometry
from bev_training.data.frame_trees import FrameTrees, look_at_frames
from bev_training.data.settings import ConvertConfig
from bev_training.data.topics import RigTopics, choose_topics, first_frame
from bev_training.messages import ODOMETRY, POINT_CLOUD, TF

Refusal = tuple[str, str, str]  # rule, where, text


@dataclass(frozen=True, eq=False, kw_only=True)
class RigChoice:
    """What can be measured.

    Attributes:
        rig: topics.
        beginning: None where a conversion would be refused.
        refusals: why it would.
    """

    rig: RigTopics
    beginning: Beginning | None
    refusals: tuple[Refusal, ...]


def choose_rig(recording: Recording, config: ConvertConfig) -> RigChoice:
    """Choose topics as a conversion does; where it refuses, choose what can be measured.

    Raises:
        BagError: the recording is damaged.
    """
    try:
        rig = choose_topics(recording, config)
    except BevError as error:
        return _despite(recording, config, error)
    try:
        return RigChoice(
            rig=rig, beginning=read_beginning(recording, rig, config.base_frame), refusals=()
        )
    except CalibrationError as error:
        refusal = 'BAG045', '', _bare(recording, error)
    except BagError as error:
        refusal = 'BAG005', '', _bare(recording, error)
    return RigChoice(rig=rig, beginning=None, refusals=(refusal,))


def _despite(recording: Recording, config: ConvertConfig, error: BevError) -> RigChoice:
    cameras: tuple[CameraTopics, ...] = ()
    refusals: list[Refusal] = []
    try:
        cameras = choose_cameras(recording, config)
    except BevError as problem:
        refusals.append(('BAG003', '', _bare(recording, problem)))
    clouds = [t.name for t in recording.topics.values() if t.type == POINT_CLOUD and t.messages]
    given = config.lidars if config.lidars is not None else {topic: topic for topic in clouds}
    lidars = {name: topic for name, topic in given.items() if topic in clouds}
    moving = [t.name for t in recording.topics.values() if t.type == TF and t.messages]
    tf = tuple(name for name in moving if name.endswith('tf'))
    tf_static = tuple(name for name in moving if name.endswith('tf_static'))
    if cameras:
        trees = look_at_frames(recording, tf, tf_static, lambda trees: False)
        sensors = {c.name: c.image for c in cameras} | lidars
        refusals += _unusable(recording, config, trees, sensors)
    if not refusals:
        refusals.append(('BAG003', '', _bare(recording, error)))
    poses = [t.name for t in recording.topics.values() if t.type == ODOMETRY and t.messages]
    named = config.odometry_topic in recording.topics
    odometry = config.odometry_topic if named else (poses or [''])[0]
    rig = RigTopics(cameras=cameras, lidars=lidars, tf=tf, tf_static=tf_static, odometry=odometry)
    return RigChoice(rig=rig, beginning=None, refusals=tuple(refusals))


def _unusable(
    recording: Recording, config: ConvertConfig, trees: FrameTrees, sensors: dict[str, str]
) -> list[Refusal]:
    """Say which sensors have no frame or no place, and whether there are no poses."""
    refusals: list[Refusal] = []
    for name, topic in sensors.items():
        try:
            frame = first_frame(recording, topic)
        except BagError as error:
            refusals.append(('BAG005', name, _bare(recording, error)))
            continue
        if not trees.connected(config.base_frame, frame):
            refusals.append(
                (
                    'BAG030',
                    name,
                    f'{topic} is in frame {frame!r}, which TF does not connect with base_frame '
                    f'{config.base_frame!r}; {trees}',
                )
            )
    try:
        choose_odometry(recording, config, trees)
    except BagError as error:
        refusals.append(('BAG031', '', _bare(recording, error)))
    return refusals


def _bare(recording: Recording, error: BevError) -> str:
    """Return an error without the path, which the finding has."""
    text = str(error)
    for start in (f'{recording.path}: ', f'{recording.path} '):
        text = text.removeprefix(start)
    return text
