"""The cameras of a recording: by the names that a user gives, or found by type and namespace."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from bev_perception.errors import BagError
from bev_perception.topics import is_rectified
from bev_training.data.bag_files import natural
from bev_training.data.bag_reader import Recording
from bev_training.data.settings import ConvertConfig
from bev_training.data.video import VIDEO_TYPES

Kind = Literal['raw', 'compressed', 'video']
RIG_ORDER = ('front_left', 'front', 'front_right', 'back_left', 'back', 'back_right')
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
_KINDS: dict[str, Kind] = {
    'sensor_msgs/msg/CompressedImage': 'compressed',
    'sensor_msgs/msg/Image': 'raw',
    **dict.fromkeys(VIDEO_TYPES, 'video'),
}
_PREFERENCE = ('compressed', 'raw', 'video')
_TRANSPORTS = ('compressed', 'ffmpeg', 'foxglove', 'h264', 'video')  # last part of a topic's name
# Names beside a camera's own pictures: other things that are published as images.
_NO_PICTURE = re.compile(
    r'(^|[/_])(depth|compresseddepth|disparity|mask|masks|label|labels|segmentation|semantic|'
    r'instance|confidence|heatmap|debug|thumbnail)([/_]|$)'
)
_DEPTH = re.compile(r'^(16UC1|32FC1|64FC1)|compressedDepth')
_COLOURS = ('image_raw', 'image', 'image_color', 'image_rect_color', 'image_rect')
_GRAY = re.compile(r'(^|[/_])(mono|gray|grey)([/_]|$)')
_PLAIN_PARTS = {
    'camera',
    'cameras',
    'cam',
    'sensing',
    'sensor',
    'sensors',
    'image',
    'rgb',
    'color',
}
_LISTED = 30


@dataclass(frozen=True, kw_only=True)
class CameraTopics:
    """A camera's topics.

    Attributes:
        name: of the camera.
        image: image topic.
        info: CameraInfo topic.
        kind: how images are stored.
        rectified: whether P and R of CameraInfo describe the images, instead of K and D.
    """

    name: str
    image: str
    info: str
    kind: Kind
    rectified: bool


def choose_cameras(recording: Recording, config: ConvertConfig) -> tuple[CameraTopics, ...]:
    """Return the cameras of a recording.

    The topics are those that the settings name (`image_topics`), those that a template fits
    (`image_topic`; of a raw and a compressed topic the one that is named exactly), or found:

    - an image topic counts if a CameraInfo topic lies beside it (`camera_info` in the namespace
      of the image), and if neither its name nor its encoding says that it is depth, a mask or
      the like;
    - topics with one CameraInfo are one camera. Of these the one is taken that is not gray, then
      compressed before raw before video, then image_raw before image before image_color before
      image_rect_color before image_rect before others;
    - a camera is called like the part of its namespace in which it differs from the others;
    - order: that of the default rig where all its names are there, else the natural one.

    Raises:
        BagError: there is none, or one that was asked for is missing.
    """
    if config.image_topics:
        found = _named(recording, config)
    elif config.image_topic:
        found = _templated(recording, config)
    else:
        found = _found(recording)
    names = list(config.cameras or (config.image_topics or _ordered(found)))
    absent = [name for name in names if name not in found]
    if absent:
        have = (
            f'it has {", ".join(_ordered(found))}' if found else f'it has {images_in(recording)}'
        )
        raise BagError(f'{recording.path} has no images of camera {absent[0]!r}; {have}')
    for setting in ('camera_info_topics', 'offsets_s'):  # these may name more than `cameras`
        odd = [name for name in getattr(config, setting) if name not in found]
        if odd:
            raise BagError(
                f'{recording.path}: {setting} names camera {odd[0]!r}; there are '
                f'{", ".join(_ordered(found))}'
            )
    return tuple(_camera(recording, config, name, found[name]) for name in names)


def images_in(recording: Recording) -> str:
    """Return the image topics of a recording as a text."""
    listed = [f'{t.name} ({t.type})' for t in recording.topics.values() if t.type in _KINDS]
    if not recording.message_count:
        return 'no message'
    if not listed:
        return f'no image topic; its topics are {", ".join(list(recording.topics)[:_LISTED])}'
    more = f' and {len(listed) - _LISTED} more' if len(listed) > _LISTED else ''
    return f'the image topics {", ".join(listed[:_LISTED])}{more}'


def _named(recording: Recording, config: ConvertConfig) -> dict[str, str]:
    found = {}
    for name, topic in config.image_topics.items():
        image = _with_transport(recording, topic)
        if image is None:
            raise BagError(
                f'{recording.path}: no images of camera {name!r} on {topic}; '
                f'the recording has {images_in(recording)}'
            )
        found[name] = image
    return found


def _templated(recording: Recording, config: ConvertConfig) -> dict[str, str]:
    names = config.cameras or tuple(_fitting(recording, config.image_topic))
    found = {}
    for name in names:
        topic = config.image_topic.replace('{camera}', name)
        image = _with_transport(recording, topic)
        if image is None:
            raise BagError(
                f'{recording.path}: no images of camera {name!r} on {topic}; '
                f'the recording has {images_in(recording)}'
            )
        found[name] = image
    if not found:
        raise BagError(
            f'{recording.path}: no topic fits image_topic {config.image_topic!r}; '
            f'the recording has {images_in(recording)}'
        )
    return found


def _fitting(recording: Recording, template: str) -> list[str]:
    """Return the names that a template can have in this recording."""
    first, *others = (re.escape(part) for part in template.split('{camera}'))
    text = first
    for i, part in enumerate(others):
        text += (r'(?P<camera>[A-Za-z0-9_]+)' if i == 0 else r'(?P=camera)') + part
    pattern = re.compile(f'{text}(/({"|".join(_TRANSPORTS)}))?')
    matches = (pattern.fullmatch(topic) for topic in _images(recording))
    return _ordered({m['camera'] for m in matches if m is not None})


def _with_transport(recording: Recording, topic: str) -> str | None:
    """Return the topic if it has images, or the one of a transport below it."""
    have = set(_images(recording))
    names = (topic, *(f'{topic}/{transport}' for transport in _TRANSPORTS))
    return next((name for name in names if name in have), None)


def _found(recording: Recording) -> dict[str, str]:
    candidates: dict[str, list[str]] = {}
    pictures = [t for t in _images(recording) if not _NO_PICTURE.search(t.lower())]
    alone = []
    for topic in pictures:
        info = _info_beside(recording, topic)
        if info is None:
            alone.append(topic)
        elif not _is_depth(recording, topic):
            candidates.setdefault(info, []).append(topic)
    if not candidates:
        if alone:
            raise BagError(
                f'{recording.path}: no CameraInfo topic lies beside '
                f'{", ".join(alone[:_LISTED])}; image_topic and camera_info_topic name the topics'
            )
        raise BagError(f'{recording.path}: no camera found; the recording has '
                       f'{images_in(recording)}')  # fmt: skip
    best = [min(topics, key=lambda t: _rank(recording, t)) for topics in candidates.values()]
    return dict(zip(_names(list(candidates)), best, strict=True))


def _rank(recording: Recording, topic: str) -> tuple[object, ...]:
    kind = _KINDS[recording.topics[topic].type]
    last = _without_transport(topic).rsplit('/', 1)[-1]
    colour = _COLOURS.index(last) if last in _COLOURS else len(_COLOURS)
    return bool(_GRAY.search(last)), _PREFERENCE.index(kind), colour, topic


def _without_transport(topic: str) -> str:
    above, _, last = topic.rpartition('/')
    return above if last in _TRANSPORTS and above else topic


def _info_beside(recording: Recording, topic: str) -> str | None:
    """Return the CameraInfo topic of an image topic, by image_transport's convention."""
    image = _without_transport(topic)
    places = [image.rpartition('/')[0], image, topic.rpartition('/')[0]]
    for place in places:
        name = f'{place}/camera_info'
        if _has(recording, name, CAMERA_INFO):
            return name
    return None


def _is_depth(recording: Recording, topic: str) -> bool:
    if _KINDS[recording.topics[topic].type] == 'video':
        return False
    first = recording.first(topic)
    if first is None:
        return False
    encoding = getattr(first[1], 'encoding', '') or getattr(first[1], 'format', '')
    return bool(_DEPTH.search(str(encoding)))


def _names(infos: Sequence[str]) -> list[str]:
    """Return a name for every camera: the parts of its namespace that are its own."""
    places = [[part for part in info.split('/')[:-1] if part] or ['camera'] for info in infos]
    if len(places) == 1:
        own = [part for part in places[0] if part.lower() not in _PLAIN_PARTS]
        return [_safe((own or places[0])[-1])]
    while min(map(len, places)) > 1 and len({place[0] for place in places}) == 1:
        places = [place[1:] for place in places]
    while min(map(len, places)) > 1 and len({place[-1] for place in places}) == 1:
        places = [place[:-1] for place in places]
    names: list[str] = []
    for place in places:
        name = _safe('_'.join(place))
        while name in names:
            name += '_'
        names.append(name)
    return names


def _safe(name: str) -> str:
    return re.sub(r'[^A-Za-z0-9_]+', '_', name)


def _ordered(names: Iterable[str]) -> list[str]:
    known = set(names)
    first = [name for name in RIG_ORDER if known.issuperset(RIG_ORDER)]
    return first + sorted(known - set(first), key=natural)


def _camera(recording: Recording, config: ConvertConfig, name: str, image: str) -> CameraTopics:
    return CameraTopics(
        name=name,
        image=image,
        info=_info_of(recording, config, name, image),
        kind=_KINDS[recording.topics[image].type],
        rectified=_rectified(config, image),
    )


def _info_of(recording: Recording, config: ConvertConfig, name: str, image: str) -> str:
    given = config.camera_info_topics.get(name, config.camera_info_topic.replace('{camera}', name))
    if given:
        if _has(recording, given, CAMERA_INFO):
            return given
        raise BagError(
            f'{recording.path}: no CameraInfo of camera {name!r} on {given}; '
            f'the recording has {_listed_infos(recording)}'
        )
    found = _info_beside(recording, image)
    if found is None:
        raise BagError(
            f'{recording.path}: no CameraInfo topic lies beside {image}; name it: --camera-info '
            f'{name}=TOPIC; the recording has {_listed_infos(recording)}'
        )
    return found


def _listed_infos(recording: Recording) -> str:
    have = [t.name for t in recording.topics.values() if t.type == CAMERA_INFO]
    return ', '.join(have[:_LISTED]) or 'none'


def _rectified(config: ConvertConfig, image: str) -> bool:
    """Return what the settings say, or the topic's name; a template counts as it is given."""
    if config.image_geometry != 'auto':
        return config.image_geometry == 'rectified'
    return is_rectified(config.image_topic or _without_transport(image))


def _images(recording: Recording) -> list[str]:
    topics = (t for t in recording.topics.values() if t.type in _KINDS and t.messages)
    return sorted((t.name for t in topics), key=natural)


def _has(recording: Recording, topic: str, kind: str) -> bool:
    info = recording.topics.get(topic)
    return info is not None and info.type == kind and info.messages > 0
