"""The seam: the images of one instant with their cameras, as topics and bags both give them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bev_perception.errors import CalibrationError, MessageError
from bev_perception.geometry.camera import Camera
from bev_perception.shapes import ImageRgb, Rigid

# An image whose width and height are scaled this differently was cropped, not resized, and then
# nobody knows where its principal point is.
_MAX_ASPECT_CHANGE = 0.02


@dataclass(frozen=True, eq=False, kw_only=True)
class CameraView:
    """One image and where it was taken.

    Attributes:
        name: the camera's name in the rig.
        image: (h, w, 3) uint8 RGB.
        camera: the model of exactly this image (`camera.size_px == (w, h)`).
        ego_T_cam: (4, 4) optical frame at exposure, in the gravity-aligned ego frame at the set's
            stamp; the vehicle's motion between the two is inside.
        stamp_ns: exposure, from the image's header.
    """

    name: str
    image: ImageRgb
    camera: Camera
    ego_T_cam: Rigid
    stamp_ns: int

    def __post_init__(self) -> None:
        """Check the image against its camera.

        Raises:
            MessageError: the image is no uint8 RGB array.
            CalibrationError: the camera is of another size.
        """
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise MessageError(
                f'{self.name}: image is {self.image.shape} {self.image.dtype}; '
                'it must be (h, w, 3) uint8'
            )
        if self.camera.size_px != self.image.shape[1::-1]:
            raise CalibrationError(
                f'{self.name}: camera is of size {self.camera.size_px}, '
                f'image of {self.image.shape[1::-1]}'
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class ViewSet:
    """The images of one instant.

    Attributes:
        stamp_ns: the instant; poses and grids refer to it.
        views: the cameras that have an image, in the rig's order.
        missing: names of the rig's cameras that have none.
        base_T_ego: (4, 4) the gravity-aligned ego frame seen from the vehicle's body frame.
        odom_T_ego: (4, 4) the ego frame in a frame that the vehicle moves smoothly in; None where
            nothing tells the vehicle's motion.
    """

    stamp_ns: int
    views: tuple[CameraView, ...]
    missing: tuple[str, ...] = ()
    base_T_ego: Rigid = field(default_factory=lambda: np.eye(4))
    odom_T_ego: Rigid | None = None


def fit_camera(camera: Camera, image: ImageRgb, name: str) -> Camera:
    """Return the camera scaled to the image that it came with.

    Drivers and decoders may publish an image smaller than its CameraInfo says.

    Raises:
        CalibrationError: the aspect ratio differs by more than 2 %, so the image was cropped.
    """
    return fit_size(camera, (image.shape[1], image.shape[0]), name)


def fit_size(camera: Camera, size_px: tuple[int, int], name: str) -> Camera:
    """Do what `fit_camera` does, for an image of which only the size (width, height) is known.

    Raises:
        CalibrationError: the aspect ratio differs by more than 2 %, so the image was cropped.
    """
    if camera.size_px == size_px:
        return camera
    ratio = (size_px[0] / camera.size_px[0]) / (size_px[1] / camera.size_px[1])
    if abs(ratio - 1) > _MAX_ASPECT_CHANGE:
        raise CalibrationError(
            f'{name}: image is {size_px[0]}x{size_px[1]} but CameraInfo describes '
            f'{camera.size_px[0]}x{camera.size_px[1]}; the aspect ratio differs by '
            f'{abs(ratio - 1):.1%}, so K cannot be scaled'
        )
    return camera.resized(size_px)
