"""Probabilities → `nav_msgs/OccupancyGrid` per class, and pictures."""

from __future__ import annotations

import array
from typing import Any

from cv_bridge import CvBridge
from geometry_msgs.msg import Pose
from nav_msgs.msg import MapMetaData, OccupancyGrid
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from bev_perception.geometry import rigid
from bev_perception.geometry.grid import BevGrid
from bev_perception.model.config import ModelConfig
from bev_perception.occupancy import combine, grid_origin, to_cells
from bev_perception.pictures import draw_bev, draw_ground_mosaic
from bev_perception.predictor import Probabilities
from bev_perception.ros.params import BevNodeParams
from bev_perception.shapes import Cells, Rigid
from bev_perception.views import ViewSet

_RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
# Costmaps subscribe to maps as transient local by default; this offer serves them and all others.
_LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class GridOutput:
    """The node's publishers; silent while the node is inactive (lifecycle publishers)."""

    def __init__(self, node: LifecycleNode, params: BevNodeParams, config: ModelConfig) -> None:
        """Create one publisher per class and those of the pictures that are switched on."""
        self._frame = params.base_frame
        self._config = config
        combined = params.combined_classes or config.obstacle_classes
        self._combined = [config.classes.index(name) for name in combined]
        self._bridge = CvBridge()
        self._pictures = {
            name: node.create_lifecycle_publisher(Image, f'~/{name}', _RELIABLE)
            for name, wanted in (
                ('bev_image', params.publish_bev_image),
                ('ground_mosaic', params.publish_ground_mosaic),
            )
            if wanted
        }
        self._grids = {
            name: node.create_lifecycle_publisher(OccupancyGrid, f'~/grid/{name}', _LATCHED)
            for name in (*config.classes, 'combined')
        }

    def publishers(self) -> list[Any]:
        """All publishers, to destroy them."""
        return [*self._grids.values(), *self._pictures.values()]

    def publish_grids(self, view_set: ViewSet, probabilities: Probabilities) -> None:
        """Publish one grid per class, and the combined one, stamped as the set."""
        header = self._header(view_set)
        info = map_metadata(self._config.grid, view_set.base_T_ego, header)
        cells = to_cells(probabilities.classes, probabilities.valid)
        layers = dict(zip(self._config.classes, cells, strict=True))
        layers['combined'] = combine(cells, self._combined)
        for name, layer in layers.items():
            self._grids[name].publish(grid_message(layer, header, info))

    def publish_pictures(self, view_set: ViewSet, probabilities: Probabilities) -> None:
        """Publish the pictures that somebody looks at."""
        draw = {
            'bev_image': lambda: draw_bev(
                probabilities.classes, probabilities.valid, self._config.classes
            ),
            'ground_mosaic': lambda: draw_ground_mosaic(view_set, self._config.grid),
        }
        for name, publisher in self._pictures.items():
            if publisher.get_subscription_count() > 0:
                header = self._header(view_set)
                publisher.publish(self._bridge.cv2_to_imgmsg(draw[name](), 'rgb8', header))

    def _header(self, view_set: ViewSet) -> Header:
        header = Header(frame_id=self._frame)
        header.stamp.sec, header.stamp.nanosec = divmod(view_set.stamp_ns, 1_000_000_000)
        return header


def map_metadata(grid: BevGrid, base_T_ego: Rigid, header: Header) -> MapMetaData:
    """Describe the grid; see `occupancy.grid_origin`."""
    _, rows, columns = grid.shape
    base_T_origin = grid_origin(grid, base_T_ego)
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = map(float, base_T_origin[:3, 3])
    quat = map(float, rigid.to_quat_xyzw(base_T_origin))
    pose.orientation.x, pose.orientation.y, pose.orientation.z, pose.orientation.w = quat
    return MapMetaData(
        map_load_time=header.stamp,
        resolution=float(grid.cell_m),
        width=columns,
        height=rows,
        origin=pose,
    )


def grid_message(cells: Cells, header: Header, info: MapMetaData) -> OccupancyGrid:
    """Wrap (y, x) cells; `array.array` is the one type whose elements rclpy does not walk."""
    message = OccupancyGrid(header=header, info=info)
    data = array.array('b')
    data.frombytes(cells.tobytes())
    message.data = data
    return message
