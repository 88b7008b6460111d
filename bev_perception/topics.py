"""What the name of an image topic says, by the habits of image_transport and image_proc."""

from __future__ import annotations

import re

_RECTIFIED = re.compile(r'(^|[/_])rect')
_COMPRESSED = '/compressed'


def is_rectified(image_topic: str) -> bool:
    """Whether a topic's images are rectified, as image_proc names them.

    Args:
        image_topic: `/camera/front/image_rect_color` is; also with `/compressed` behind it, and
            with a template's {camera} in it.
    """
    parts = image_topic.removesuffix(_COMPRESSED).split('/')
    return bool(_RECTIFIED.search('/'.join(parts[-2:])))
