"""Grids into a recording, as the node publishes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rosbags.rosbag2 import StoragePlugin, Writer

from bev_perception.errors import BagError
from bev_perception.model.config import ModelConfig
from bev_perception.occupancy import combine
from bev_perception.shapes import Cells
from bev_perception.views import ViewSet
from bev_training import messages

_NODE = 'bev_node'


class GridBag:
    """A rosbag2 (mcap) of grids with the node's topics, open within a `with` block.

    /bev_node/grid/CLASS and /bev_node/grid/combined; a message's time in the bag is its stamp.
    """

    def __init__(self, path: Path, config: ModelConfig, frame_id: str) -> None:
        """Name it.

        Args:
            path: folder that does not exist.
            config: of the network.
            frame_id: the vehicle's body frame.
        """
        self._path, self._config, self._frame_id = path, config, frame_id
        self._obstacles = [config.classes.index(name) for name in config.obstacle_classes]
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> GridBag:
        """Start it.

        Raises:
            BagError: it cannot be written.
        """
        try:
            self._writer.open()
        except Exception as error:  # rosbags wraps what the file system says
            raise BagError(f'{self._path} cannot be written: {error}') from error
        profile = messages.qos(reliable=True, latched=True, depth=1)
        for name in (*self._config.classes, 'combined'):
            self._connections[name] = self._writer.add_connection(
                f'/{_NODE}/grid/{name}',
                messages.OCCUPANCY_GRID,
                typestore=messages.TYPESTORE,
                offered_qos_profiles=[profile],
            )
        return self

    def write(self, view_set: ViewSet, cells: Cells) -> None:
        """Write the grids of a set.

        Args:
            view_set: gives the stamp and the vehicle's tilt.
            cells: (class, y, x) as `occupancy.to_cells` returns them.
        """
        layers = dict(zip(self._config.classes, cells, strict=True))
        layers['combined'] = combine(cells, self._obstacles)
        for name, layer in layers.items():
            message = messages.occupancy_grid(
                self._frame_id,
                view_set.stamp_ns,
                layer,
                self._config.grid,
                view_set.base_T_ego,
            )
            self._writer.write(self._connections[name], view_set.stamp_ns, message)

    def __exit__(self, *error: object) -> None:
        """Finish it."""
        self._writer.close()
