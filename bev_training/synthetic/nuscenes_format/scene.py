"""Renders one scene into the files and tables of nuScenes' format."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bev_perception.geometry import rigid
from bev_perception.shapes import AnyArray, Rigid
from bev_training.nuscenes_tables import (
    LIDAR_CHANNEL,
    POINT_FIELDS,
    Record,
    Tables,
    camera_channel,
    day_of,
    dumped,
    link,
    pose_record,
    token_of,
)
from bev_training.synthetic.lidar import sweep
from bev_training.synthetic.make_world import make_world
from bev_training.synthetic.nuscenes_format.annotations import (
    annotate,
    annotation_records,
    category_token,
    link_instances,
)
from bev_training.synthetic.nuscenes_format.config import NuscenesConfig, ScenePlan, lidar_of
from bev_training.synthetic.nuscenes_format.map_json import map_expansion
from bev_training.synthetic.nuscenes_format.map_mask import drivable_mask
from bev_training.synthetic.nuscenes_format.schedule import (
    Shot,
    channels,
    plan_shots,
)
from bev_training.synthetic.rendering.renderer import Renderer
from bev_training.synthetic.rendering.scene import Scene
from bev_training.synthetic.rig import Rig
from bev_training.synthetic.slices import Stopped, encode_jpeg, write_png
from bev_training.synthetic.world import World

_SUFFIX = {'camera': 'jpg', 'lidar': 'pcd.bin'}


class SceneWriter:
    """Writes one scene."""

    def __init__(self, folder: Path, config: NuscenesConfig, plan: ScenePlan) -> None:
        """Build the scene's world.

        Args:
            folder: of the data set.
            config: the settings.
            plan: of the scene.
        """
        self.folder, self.config, self.plan = folder, config, plan
        self.rig: Rig = config.rig_or_default()
        self.lidar = lidar_of(self.rig)
        self.world: World = make_world(
            seed=plan.seed,
            seconds=config.seconds,
            speed_mps=config.speed_mps,
            weather=config.weather,
            town_seed=plan.town_seed,
            vehicle=self.rig.vehicle,
        )
        self.scene = Scene(self.world)
        self.renderer = Renderer(self.scene)

    def write(
        self,
        sample_done: Callable[[], None],
        stopped: Callable[[], bool] = bool,
        threads: int = 1,
    ) -> Tables:
        """Write images, sweeps and, if it is this scene's turn, the map; return the records.

        Args:
            sample_done: called after every sample.
            stopped: asked before every measurement.
            threads: how many measurements are made at once; the files do not depend on it.

        Raises:
            Stopped: `stopped` said so.
            OSError: a file cannot be written.
        """
        name = self.plan.name
        tables: Tables = {'sample': [], 'sample_data': [], 'ego_pose': [], 'sample_annotation': []}
        categories: dict[str, str] = {}

        def measure(shot: Shot) -> AnyArray | None:
            if stopped():
                raise Stopped('writing was stopped')
            if shot.modality == 'lidar':
                return self._sweep(shot)
            self._image(shot)
            return None

        plans = plan_shots(self.rig, self.config.seconds, sweeps=self.config.sweeps)
        for number, shots in enumerate(plans):
            with ThreadPoolExecutor(threads) as pool:
                made = list(pool.map(measure, shots))
            for shot in shots:
                self._add(tables, shot)
            points_lidar = next(
                points
                for shot, points in zip(shots, made, strict=True)
                if shot.is_key and points is not None
            )
            key = {shot.channel: shot for shot in shots if shot.is_key}
            time_s = key[LIDAR_CHANNEL].time_s
            map_T_lidar = self.world.map_T_base(time_s) @ self.lidar.base_T_lidar
            seen = annotate(
                self.scene,
                self.rig,
                {c.name: key[camera_channel(c.name)].time_s for c in self.rig.cameras},
                time_s,
                rigid.transform_points(map_T_lidar, points_lidar[:, :3].astype(float)),
            )
            tables['sample'].append(
                {
                    'token': self._token('sample', number),
                    'timestamp': self.plan.start_us + key[LIDAR_CHANNEL].time_us,
                    'prev': '',
                    'next': '',
                    'scene_token': self._token('scene'),
                }
            )
            tables['sample_annotation'] += annotation_records(
                seen,
                seed=self.config.seed,
                scene_name=name,
                sample_token=self._token('sample', number),
                sample=number,
            )
            for actor, category in zip(seen.boxes.actor, seen.boxes.category, strict=True):
                categories[self._token('instance', int(actor))] = category_token(
                    self.config.seed, int(category)
                )
            sample_done()
        link(tables['sample'])
        for channel in channels(self.rig):
            sensor = self._token('calibrated_sensor', channel)
            link([r for r in tables['sample_data'] if r['calibrated_sensor_token'] == sensor])
        tables['instance'] = link_instances(tables['sample_annotation'], categories)
        return {**tables, **self._about(tables['sample'])}

    def _token(self, kind: str, *names: object) -> str:
        return token_of(self.config.seed, kind, self.plan.name, *names)

    def _image(self, shot: Shot) -> None:
        each = self.rig.cameras[shot.camera]
        view = self.renderer.view(
            each.camera,
            self.world.map_T_base(shot.time_s) @ each.base_T_cam,
            shot.time_s,
            noise_seed=(self.world.seed, shot.camera, shot.time_us + 1_000_000),
        )
        self._path(shot).write_bytes(encode_jpeg(view.image))

    def _sweep(self, shot: Shot) -> AnyArray:
        """Write a sweep and return it: (N, 5) float32, POINT_FIELDS in the lidar's frame."""
        found = sweep(
            self.scene.at(shot.time_s),
            self.lidar,
            self.world.map_T_base(shot.time_s),
            seed=(self.world.seed, shot.time_us),
            conditions=self.world.conditions,
            ground_semantics=self.renderer.ground.semantics,  # making another takes seconds
        )
        points = np.stack([found[field].astype('<f4') for field in POINT_FIELDS], -1)
        self._path(shot).write_bytes(points.tobytes())
        return points

    def _file(self, shot: Shot) -> str:
        """Return the name of a measurement's file in the data set."""
        stamp = self.plan.start_us + shot.time_us
        file = f'{self.plan.name}__{shot.channel}__{stamp}.{_SUFFIX[shot.modality]}'
        return f'{"samples" if shot.is_key else "sweeps"}/{shot.channel}/{file}'

    def _path(self, shot: Shot) -> Path:
        path = self.folder / self._file(shot)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _add(self, tables: Tables, shot: Shot) -> None:
        """Append the records of a measurement: what it is, and where the vehicle was."""
        token = self._token('sample_data', shot.channel, shot.time_us)
        stamp = self.plan.start_us + shot.time_us
        width, height = 0, 0
        if shot.camera >= 0:
            width, height = self.rig.cameras[shot.camera].camera.size_px
        tables['ego_pose'].append(
            {'token': token, 'timestamp': stamp, **pose_record(self.world.map_T_base(shot.time_s))}
        )
        tables['sample_data'].append(
            {
                'token': token,
                'sample_token': self._token('sample', shot.sample),
                'ego_pose_token': token,
                'calibrated_sensor_token': self._token('calibrated_sensor', shot.channel),
                'timestamp': stamp,
                'fileformat': 'jpg' if shot.modality == 'camera' else 'pcd',
                'is_key_frame': shot.is_key,
                'height': height,
                'width': width,
                'filename': self._file(shot),
                'prev': '',
                'next': '',
            }
        )

    def _about(self, samples: list[Record]) -> Tables:
        """Return the records of the scene itself, and write its town's map if it is to."""
        plan, seed = self.plan, self.config.seed
        conditions = self.world.conditions
        mask = f'maps/{token_of(seed, "map", plan.location)}.png'
        if plan.draws_map:
            town = self.world.town
            (self.folder / 'maps' / 'expansion').mkdir(parents=True, exist_ok=True)
            write_png(self.folder / mask, drivable_mask(town.drivable_area, town.size_m))
            (self.folder / 'maps' / 'expansion' / f'{plan.location}.json').write_text(
                dumped(map_expansion(town, seed=seed, name=plan.location))
            )
        poses: dict[str, tuple[Rigid, list[list[float]]]] = {
            LIDAR_CHANNEL: (self.lidar.base_T_lidar, [])
        }
        for each in self.rig.cameras:
            camera = each.camera
            # points of the rectified frame go through K alone, as in the format
            base_T_rect = each.base_T_cam @ rigid.inverse(camera.rect_T_cam)
            poses[camera_channel(each.name)] = (base_T_rect, camera.K.tolist())
        return {
            'scene': [
                {
                    'token': self._token('scene'),
                    'log_token': self._token('log'),
                    'nbr_samples': len(samples),
                    'first_sample_token': samples[0]['token'],
                    'last_sample_token': samples[-1]['token'],
                    'name': plan.name,
                    'description': f'synthetic, {conditions.weather}, town {plan.town + 1}, '
                    f'{plan.split}',
                }
            ],
            'log': [
                {
                    'token': self._token('log'),
                    'logfile': f'synthetic-{plan.name}',
                    'vehicle': 'synthetic',
                    'date_captured': day_of(plan.start_us),
                    'location': plan.location,
                }
            ],
            'map': [
                {
                    'category': 'semantic_prior',
                    'token': token_of(seed, 'map', plan.location),
                    'filename': mask,
                    'log_tokens': [self._token('log')],
                }
            ],
            'calibrated_sensor': [
                {
                    'token': self._token('calibrated_sensor', channel),
                    'sensor_token': token_of(seed, 'sensor', channel),
                    **pose_record(pose),
                    'camera_intrinsic': intrinsic,
                }
                for channel, (pose, intrinsic) in poses.items()
            ],
        }
