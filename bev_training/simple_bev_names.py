"""Names of weights: ours, and those of github.com/aharley/simple_bev for the same tensors.

Its encoders have the layout of torchvision's ResNets or of efficientnet_pytorch, ours those of
timm; what follows is the same network under other names. Every name of ours has exactly one of
theirs, and every one of theirs has ours or is in `LEFT_OUT`.
"""

from __future__ import annotations

import itertools
import re

# Theirs that have no part in what we compute: a head without a loss, and weights of the losses.
LEFT_OUT = ('decoder.feat_head.', 'ce_weight', 'center_weight', 'offset_weight')

# Blocks by stage, as far as stride 16 goes.
EFFICIENTNET_STAGES = {
    'tf_efficientnet_b0': (1, 2, 2, 3, 3),
    'tf_efficientnet_b4': (2, 4, 4, 6, 6),
}
_TRUNK = 'encoder.trunk.model.'
_RESNET = {
    'conv1.': 'backbone.0.',
    'bn1.': 'backbone.1.',
    'layer1.': 'backbone.4.',
    'layer2.': 'backbone.5.',
    'layer3.': 'layer3.',
}
_EFFICIENTNET = {'conv_stem.': 'backbone._conv_stem.', 'bn1.': 'backbone._bn0.'}
_SQUEEZE = {'se.conv_reduce.': '_se_reduce.', 'se.conv_expand.': '_se_expand.'}
_FIRST_STAGE = {
    'conv_dw.': '_depthwise_conv.',
    'bn1.': '_bn1.',
    'conv_pw.': '_project_conv.',
    'bn2.': '_bn2.',
    **_SQUEEZE,
}
_OTHER_STAGES = {
    'conv_pw.': '_expand_conv.',
    'bn1.': '_bn0.',
    'conv_dw.': '_depthwise_conv.',
    'bn2.': '_bn1.',
    'conv_pwl.': '_project_conv.',
    'bn3.': '_bn2.',
    **_SQUEEZE,
}
_PLANE = {
    'encoder.mix.0.': 'encoder.upsampling_layer.conv.0.',
    'encoder.mix.3.': 'encoder.upsampling_layer.conv.3.',
    'encoder.mix.6.': 'encoder.depth_layer.',
    'bev_net.compress.0.': 'bev_compressor.0.',
    'bev_net.stem.0.': 'decoder.first_conv.',
    'bev_net.stem.1.': 'decoder.bn1.',
    'bev_net.down1.': 'decoder.layer1.',
    'bev_net.down2.': 'decoder.layer2.',
    'bev_net.down3.': 'decoder.layer3.',
    'bev_net.up2.reduce.': 'decoder.up3_skip.upsample_layer.1.',
    'bev_net.up1.reduce.': 'decoder.up2_skip.upsample_layer.1.',
    'bev_net.up0.reduce.': 'decoder.up1_skip.upsample_layer.1.',
    'head.layers.': 'decoder.segmentation_head.',
    'center_head.layers.': 'decoder.instance_center_head.',
    'offset_head.layers.': 'decoder.instance_offset_head.',
}
_ATTENTION = 'attention.'
_QUERIES = {'queries': 'bev_queries', 'positions': 'bev_queries_pos'}
_LAYER = {
    'self_attention.attention.': 'self_attn_layers.{}.deformable_attention.',
    'self_attention.output_proj.': 'self_attn_layers.{}.output_proj.',
    'cross_attention.attention.': 'cross_attn_layers.{}.deformable_attention.',
    'cross_attention.output_proj.': 'cross_attn_layers.{}.output_proj.',
    'norm1.': 'norm1_layers.{}.',
    'norm2.': 'norm2_layers.{}.',
    'norm3.': 'norm3_layers.{}.',
    'ffn.': 'ffn_layers.{}.',
}


def their_name(ours: str, backbone: str) -> str:
    """Return simple_bev's name of one of our weights.

    Args:
        ours: a name in the state dict of a `BevModel` with `center_offset`.
        backbone: of its config.

    Raises:
        KeyError: simple_bev has no such weight.
    """
    if ours.startswith(_TRUNK):
        rest = ours.removeprefix(_TRUNK)
        if backbone in EFFICIENTNET_STAGES:
            return f'encoder.{_in_efficientnet(rest, EFFICIENTNET_STAGES[backbone])}'
        return f'encoder.{_renamed(rest, _RESNET)}'
    if ours.startswith(_ATTENTION):
        return _in_attention(ours.removeprefix(_ATTENTION))
    return _renamed(ours, _PLANE)


def is_left_out(theirs: str) -> bool:
    """Whether one of simple_bev's weights has no place in our network."""
    return theirs.startswith(LEFT_OUT)


def _in_efficientnet(ours: str, stages: tuple[int, ...]) -> str:
    found = re.fullmatch(r'blocks\.(\d+)\.(\d+)\.(.+)', ours)
    if found is None:
        return _renamed(ours, _EFFICIENTNET)
    stage, block = int(found[1]), int(found[2])
    first = [0, *itertools.accumulate(stages)][stage]
    part = _renamed(found[3], _OTHER_STAGES if stage else _FIRST_STAGE)
    return f'backbone._blocks.{first + block}.{part}'


def _in_attention(ours: str) -> str:
    found = re.fullmatch(r'layers\.(\d+)\.(.+)', ours)
    if found is None:
        return _renamed(ours, _QUERIES)
    return _renamed(found[2], _LAYER).replace('{}', found[1])


def _renamed(name: str, starts: dict[str, str]) -> str:
    """Replace the beginning of a name."""
    for ours, theirs in starts.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise KeyError(name)
