"""A teacher's features on disk: one file per sample, named by what the sample's images are.

    FOLDER/teacher.json                       whose features these are, of images of which size
    FOLDER/3f/3f09...e1.safetensors           one sample, by its `SampleSource.fingerprint`:
        features   (n, c, h, w) float16       maps over the whole images, rows from the top
        K          (n, 3, 3) float64          of the teacher's images, pixel centres at integers
        ego_T_cam  (n, 4, 4) float64          in the sample's ego frame
        metadata   cameras: JSON list of n names; crc32: of the features' bytes (may be left out)

`teacher.json` has `format` (1), `digest` (which teacher), `channels` and `size_px` (width,
height). Features of any other network take part when they are stored like this.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bev_perception.errors import BagError, ConfigError
from bev_perception.shapes import Array
from bev_training.data.batch import Batch
from bev_training.data.paths import default_cache

if TYPE_CHECKING:
    from bev_training.teachers.load import Teacher

FORMAT = 1
HEAD = 'teacher.json'
_SUFFIX, _PART = '.safetensors', '.part'
_ABANDONED_S = 3600.0  # so old, an unfinished file is a killed run's
_GB = 1e9
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureMaps:
    """A teacher's features of one sample.

    Attributes:
        cameras: names along axis n.
        features: (n, c, h, w) float16 maps over the whole images.
        K: (n, 3, 3) of the teacher's images, pixel centres at integers.
        ego_T_cam: (n, 4, 4) in the sample's own ego frame, before any augmentation.
    """

    cameras: tuple[str, ...]
    features: npt.NDArray[np.float16]
    K: Array
    ego_T_cam: Array


class FeatureCache:
    """Features of one teacher, in a folder. Can be pickled; several processes may read and write.

    Every file appears whole or not at all, so a run that was interrupted goes on where it was.
    """

    def __init__(
        self,
        folder: Path,
        *,
        digest: str,
        channels: int,
        size_px: tuple[int, int],
        limit_gb: float,
        read_only: bool = False,
    ) -> None:
        """Open a folder; it is made when the first features are stored.

        Args:
            folder: where the features lie.
            digest: of the teacher.
            channels: of its features.
            size_px: (width, height) of the images that it sees.
            limit_gb: the files take at most so much (1e9 bytes).
            read_only: the features are somebody else's: nothing is written or removed.

        Raises:
            ConfigError: the folder holds features of another teacher, or of another size.
            BagError: it cannot be read.
        """
        self.folder, self.digest, self.channels = folder, digest, channels
        self.size_px, self.limit_bytes, self.read_only = size_px, limit_gb * _GB, read_only
        self._used: int | None = None
        self._map_size: tuple[int, int] | None = None  # of somebody else's features
        self._check_head()

    @classmethod
    def of(cls, teacher: Teacher, cache: Path | None, *, limit_gb: float) -> FeatureCache:
        """Open the folder of a teacher's features.

        Args:
            teacher: whose.
            cache: folder for what is computed once; None takes ~/.cache/bev_perception. Features
                that somebody else stored stay where they are.
            limit_gb: see the class, as what is raised.
        """
        return cls(
            teacher.stored or (cache or default_cache()) / 'teacher' / teacher.digest,
            digest=teacher.digest,
            channels=teacher.channels,
            size_px=teacher.size_px,
            limit_gb=limit_gb,
            read_only=teacher.stored is not None,
        )

    @property
    def head(self) -> dict[str, Any]:
        """What `teacher.json` says."""
        return {
            'format': FORMAT,
            'digest': self.digest,
            'channels': self.channels,
            'size_px': list(self.size_px),
        }

    def load(self, fingerprint: str) -> FeatureMaps | None:
        """Return a sample's features; None where there are none.

        Damaged ones count as none; they are removed, so that `fill` makes them anew.

        Args:
            fingerprint: of the sample.
        """
        path = self.path(fingerprint)
        try:
            return self._read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning('%s cannot be read (%s)%s', path, error, self._consequence)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            reason = ' '.join(str(error).split())[:120]
            _log.warning('%s is damaged (%s)%s', path, reason, self._consequence)
            self._discard(path)
        return None

    def has(self, fingerprint: str) -> bool:
        """Whether a sample's features are there; of damaged ones, finds those cut off."""
        path = self.path(fingerprint)
        try:
            with safe_open(path, 'numpy') as file:  # compares the file's length with its header
                self._check_shapes(file)
        except (OSError, SafetensorError, ValueError):
            return False
        return True

    def store(self, fingerprint: str, maps: FeatureMaps) -> bool:
        """Keep a sample's features.

        Returns:
            False if there is no room for them under the limit.

        Raises:
            BagError: they cannot be written.
        """
        n, c = maps.features.shape[:2]
        if maps.features.dtype != np.float16 or c != self.channels or n != len(maps.cameras):
            raise ValueError(
                f'features are {maps.features.shape} {maps.features.dtype}, not '
                f'({len(maps.cameras)}, {self.channels}, h, w) float16'
            )
        if self.read_only:
            return False
        features = np.ascontiguousarray(maps.features)
        data = save(
            {
                'features': features,
                'K': np.ascontiguousarray(maps.K, np.float64),
                'ego_T_cam': np.ascontiguousarray(maps.ego_T_cam, np.float64),
            },
            {'cameras': json.dumps(maps.cameras), 'crc32': str(zlib.crc32(features.data))},
        )
        path = self.path(fingerprint)
        try:
            replaced = path.stat().st_size if path.exists() else 0
            used = self.used_bytes() - replaced + len(data)
            if used > self.limit_bytes:
                return False
            if not (self.folder / HEAD).exists():
                write_shared(self.folder / HEAD, (json.dumps(self.head, indent=2) + '\n').encode())
            write_shared(path, data)
        except OSError as error:
            raise BagError(
                f'{self.folder}: features cannot be stored: {error.strerror or error}'
            ) from error
        self._used = used
        return True

    def path(self, fingerprint: str) -> Path:
        """Return where a sample's features lie, or would."""
        return self.folder / fingerprint[:2] / f'{fingerprint}{_SUFFIX}'

    def used_bytes(self, *, anew: bool = False) -> int:
        """Return how much all features take: counted once, then followed.

        Args:
            anew: count again, for what other processes have stored meanwhile.
        """
        if self._used is None or anew:
            self._used = 0
            for path in self.folder.glob(f'??/*{_SUFFIX}'):
                with suppress(FileNotFoundError):  # another process has just removed it
                    self._used += path.stat().st_size
        return self._used

    def clear_abandoned(self) -> None:
        """Remove what killed runs left unfinished.

        Raises:
            BagError: it cannot be removed.
        """
        if self.read_only:
            return
        try:
            for path in self.folder.glob(f'**/.*{_PART}'):
                with suppress(FileNotFoundError):  # another process has just finished it
                    if time.time() - path.stat().st_mtime > _ABANDONED_S:
                        path.unlink()
        except OSError as error:
            raise BagError(f'{self.folder} cannot be cleared: {error}') from error

    def _read(self, path: Path) -> FeatureMaps:
        with safe_open(path, 'numpy') as file:
            self._check_shapes(file)
            told = file.metadata() or {}
            features, K, ego_T_cam = (file.get_tensor(k) for k in ('features', 'K', 'ego_T_cam'))
        if 'crc32' in told and int(told['crc32']) != zlib.crc32(features.data):
            raise ValueError('its checksum is another')
        cameras = tuple(json.loads(told['cameras']))
        n = len(features)
        if len(cameras) != n or K.shape != (n, 3, 3) or ego_T_cam.shape != (n, 4, 4):
            raise ValueError(f'{n} maps for cameras {cameras}, K {K.shape}')
        return FeatureMaps(cameras=cameras, features=features, K=K, ego_T_cam=ego_T_cam)

    def _check_shapes(self, file: Any) -> None:
        features = file.get_slice('features')
        shape = features.get_shape()
        if features.get_dtype() != 'F16' or len(shape) != 4 or shape[1] != self.channels:
            raise ValueError(f'features are {shape} {features.get_dtype()}')
        if self.read_only:
            self._map_size = self._map_size or (shape[2], shape[3])
            if self._map_size != (shape[2], shape[3]):
                raise ValueError(f'maps are {shape[2:]}, others {list(self._map_size)}')

    @property
    def _consequence(self) -> str:
        return '' if self.read_only else '; its features are made anew'

    def _discard(self, path: Path) -> None:
        if self.read_only:
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning('%s cannot be removed: %s', path, error)

    def _check_head(self) -> None:
        told = read_head(self.folder)
        for name, mine in self.head.items():
            if told is not None and told.get(name) != mine:
                what = f'change teacher or {HEAD}' if self.read_only else 'remove the folder'
                raise ConfigError(
                    f'{self.folder} holds features of another teacher: {name} is '
                    f'{told.get(name)}, not {mine}; {what}'
                )


def read_head(folder: Path) -> dict[str, Any] | None:
    """Return what a folder's `teacher.json` says; None where there is none.

    Raises:
        BagError: it cannot be read.
    """
    path = folder / HEAD
    try:
        told = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BagError(f'{path} cannot be read ({error}); remove {folder}') from error
    if not isinstance(told, dict):
        raise BagError(f'{path} cannot be read (no object in it); remove {folder}')
    return told


def complete(batch: Batch, teacher: Teacher) -> Batch:
    """Return a batch with the features of all its samples; those not stored are computed.

    Args:
        batch: its `teacher` has images of the samples without features; on the teacher's device.
        teacher: runs on cameras that the network sees, too; the others' features are zeros.

    Raises:
        ConfigError: something is to be computed, but the teacher has no network.
    """
    views = batch.teacher
    if views is None or views.images is None or views.rows is None:
        return batch
    if teacher.stored is not None:
        keys = [batch.keys[row] for row in views.rows.tolist()]
        raise ConfigError(
            f'{teacher.stored} holds no features of sample {keys[0]}, and teacher.name external '
            'has no network to compute them; store them for every sample, by its fingerprint'
        )
    seen = views.live[views.rows]  # (m, n)
    shape = (teacher.channels, *(side // teacher.patch_px for side in views.images.shape[-2:]))
    if views.features is None:
        features = views.images.new_zeros(*views.live.shape, *shape, dtype=torch.float16)
    elif tuple(views.features.shape[2:]) != shape:
        raise ConfigError(
            f'stored features are {tuple(views.features.shape[2:])}, those of the teacher {shape}'
        )
    else:
        features = views.features.clone()
    if seen.any():
        rows = features[views.rows]
        rows[seen] = teacher(views.images[seen]).half()
        features[views.rows] = rows
    full = replace(views, features=features, images=None, rows=None)
    return replace(batch, teacher=full)


def write_shared(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; several processes may write the same one.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(_PART, f'.{path.name}.', path.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, 'wb') as file:
            file.write(data)
        part.chmod(0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
