"""Vision transformers as teachers: DINOv2 with and without registers (Oquab et al., 2023; Darcet
et al., 2023), and DINOv3 (Siméoni et al., 2025).

Networks are timm's; weights may have timm's, Meta's or transformers' names. DINOv2's table of
positions is for 37 x 37 patches: here it is resized once, to the size that the teacher sees, as
Meta's own code does it (timm's differs: it blurs the table where it shrinks).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bev_perception.errors import CheckpointError
from bev_perception.model import torchvision_ops as torchvision_ops  # before timm

import timm  # isort: skip

_TABLE = 37  # patches along each side of DINOv2's table of positions
OFFSET = 0.1  # patches that Meta adds to the wanted size where it resizes the table


@dataclass(frozen=True, kw_only=True)
class Vit:
    """Which transformer.

    Attributes:
        timm: its name there.
        blocks: how many it has.
        patch_px: edge of a patch.
        registers: tokens that belong to no patch, beside the class token.
        url: where Meta offers the weights; '' where one has to ask for them.
    """

    timm: str
    blocks: int
    patch_px: int
    registers: int = 0
    url: str = ''

    @property
    def has_table(self) -> bool:
        """Whether positions come from a table, and not from a rotation of queries and keys."""
        return 'dinov2' in self.timm


def _dinov2(letter: str, size: str, blocks: int) -> dict[str, Vit]:
    name, url = f'dinov2_vit{letter}14', 'https://dl.fbaipublicfiles.com/dinov2'
    return {
        name: Vit(
            timm=f'vit_{size}_patch14_dinov2',
            blocks=blocks,
            patch_px=14,
            url=f'{url}/{name}/{name}_pretrain.pth',
        ),
        f'{name}_reg': Vit(
            timm=f'vit_{size}_patch14_reg4_dinov2',
            blocks=blocks,
            patch_px=14,
            registers=4,
            url=f'{url}/{name}/{name}_reg4_pretrain.pth',
        ),
    }


VITS = {
    **_dinov2('s', 'small', 12),
    **_dinov2('b', 'base', 12),
    **_dinov2('l', 'large', 24),
    'dinov3_vits16': Vit(timm='vit_small_patch16_dinov3', blocks=12, patch_px=16, registers=4),
    'dinov3_vitb16': Vit(timm='vit_base_patch16_dinov3', blocks=12, patch_px=16, registers=4),
    'dinov3_vitl16': Vit(timm='vit_large_patch16_dinov3', blocks=24, patch_px=16, registers=4),
}


class VitMaps(nn.Module):
    """(b, 3, height, width) normalised → (b, c, height / patch, width / patch): a block's output,
    by patches; after the last one, its final norm. What comes after it is not there.
    """

    def __init__(self, vit: Vit, block: int, size_px: tuple[int, int]) -> None:
        """Build with random weights.

        Args:
            vit: which.
            block: from 0; -1 is the last, with the final norm.
            size_px: (width, height), multiples of the patch.
        """
        super().__init__()
        self.vit, self.size_px, self.last = vit, size_px, block == -1
        self.trunk = timm.create_model(
            vit.timm, pretrained=False, num_classes=0, img_size=size_px[::-1]
        )
        self.trunk.prune_intermediate_layers(
            [block % vit.blocks], prune_norm=not self.last, prune_head=True
        )

    @property
    def channels(self) -> int:
        """Of the maps."""
        return int(self.trunk.embed_dim)

    def load(
        self, state: Mapping[str, Tensor], source: str, *, offset: float = OFFSET
    ) -> dict[str, Tensor]:
        """Load weights; those of blocks that are not there are left.

        Args:
            state: by timm's, Meta's or transformers' names.
            source: where they come from, for messages.
            offset: of `resized_positions`: that which the weights were trained with.

        Returns:
            What was used, by timm's names, before anything was resized.

        Raises:
            CheckpointError: they do not fit.
        """
        wanted = self.trunk.state_dict()
        given = timm_names(state, self.vit)
        missing = [name for name in wanted if name not in given]
        if missing:
            raise CheckpointError(
                f'{source}: {len(missing)} of {len(wanted)} tensors of {self.vit.timm} are '
                f"missing, the first is {missing[0]}; names must be timm's, Meta's or "
                "transformers'"
            )
        used = {name: given[name].float() for name in wanted}
        sized = dict(used)
        if self.vit.has_table and _fits_table(used['pos_embed'], self.vit):
            width, height = (side // self.vit.patch_px for side in self.size_px)
            sized['pos_embed'] = resized_positions(
                used['pos_embed'], (width, height), self.vit, offset
            )
        for name, value in sized.items():
            if value.shape != wanted[name].shape:
                raise CheckpointError(
                    f'{source}: {name} is {tuple(value.shape)}, but {self.vit.timm} has '
                    f'{tuple(wanted[name].shape)}'
                )
            if not torch.isfinite(value).all():
                raise CheckpointError(f'{source}: {name} holds values that are not finite')
        self.trunk.load_state_dict(sized)
        return used

    def forward(self, images: Tensor) -> Tensor:
        """Return the maps."""
        maps: Tensor = self.trunk.forward_intermediates(
            images, indices=1, norm=self.last, intermediates_only=True
        )[0]
        return maps


def resized_positions(
    table: Tensor, patches: tuple[int, int], vit: Vit, offset: float = OFFSET
) -> Tensor:
    """Return a table of positions for (width, height) patches instead of 37 x 37, bicubic.

    Meta's networks without registers do it by the ratio of the sizes after `offset` was added to
    the wanted one; those with registers by plain sizes, antialiased; transformers by plain sizes.

    Args:
        table: (1, prefix + 37², c), prefix 1 without registers (the class token's), else 0.
        patches: wanted.
        vit: which network it belongs to.
        offset: in patches; 0 for plain sizes.
    """
    width, height = patches
    if (width, height) == (_TABLE, _TABLE):
        return table
    prefix = table.shape[1] - _TABLE**2
    squares = table[:, prefix:].reshape(1, _TABLE, _TABLE, -1).permute(0, 3, 1, 2)
    if vit.registers or not offset:
        antialias = vit.registers > 0
        squares = F.interpolate(squares, (height, width), mode='bicubic', antialias=antialias)
    else:
        ratios = ((height + offset) / _TABLE, (width + offset) / _TABLE)
        squares = F.interpolate(squares, scale_factor=ratios, mode='bicubic')
    return torch.cat([table[:, :prefix], squares.flatten(2).transpose(1, 2)], 1)


def _fits_table(table: Tensor, vit: Vit) -> bool:
    return table.shape[1] == _TABLE**2 + (0 if vit.registers else 1)


# transformers' names of DINOv2, before version 5 and since, and timm's.
_RENAMED = (
    (r'^embeddings\.cls_token$', 'cls_token'),
    (r'^embeddings\.register_tokens$', 'register_tokens'),
    (r'^embeddings\.position_embeddings$', 'pos_embed'),
    (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
    (r'^layernorm\.', 'norm.'),
    (r'^(?:encoder\.)?layer\.(\d+)\.', r'blocks.\1.'),
    (r'\.attention\.(?:attention\.)?(query|key|value)\.', r'.attn.\1.'),
    (r'\.attention\.q_proj\.', '.attn.query.'),
    (r'\.attention\.k_proj\.', '.attn.key.'),
    (r'\.attention\.v_proj\.', '.attn.value.'),
    (r'\.attention\.(?:output\.dense|o_proj)\.', '.attn.proj.'),
    (r'\.layer_scale([12])\.lambda1$', r'.ls\1.gamma'),
)
_WRAPPED = re.compile(r'^(?:module\.|model\.|backbone\.|dinov2(?:_with_registers)?\.)+')


def timm_names(state: Mapping[str, Tensor], vit: Vit) -> dict[str, Tensor]:
    """Return a DINOv2 or DINOv3's tensors under timm's names, whoever named them.

    Args:
        state: by timm's, Meta's or (DINOv2) transformers' names.
        vit: which network it is.
    """
    renamed = {}
    for name, value in state.items():
        name = _WRAPPED.sub('', name)
        for pattern, new in _RENAMED:
            name = re.sub(pattern, new, name)
        renamed[name] = value
    for name in [n for n in renamed if '.attn.query.' in n]:
        parts = [name.replace('.query.', f'.{part}.') for part in ('query', 'key', 'value')]
        if all(part in renamed for part in parts):
            joined = torch.cat([renamed.pop(part) for part in parts])
            renamed[name.replace('.query.', '.qkv.')] = joined
    if 'storage_tokens' in renamed:
        return _from_dinov3(renamed)
    if 'register_tokens' in renamed:
        renamed['reg_token'] = renamed.pop('register_tokens')
        # Where there are registers, timm has the class token's place in the class token.
        table = renamed.get('pos_embed')
        if vit.registers and table is not None and 'cls_token' in renamed:
            renamed['cls_token'] = renamed['cls_token'] + table[:, :1]
            renamed['pos_embed'] = table[:, 1:]
    return renamed


def _from_dinov3(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return Meta's tensors of a DINOv3 under timm's names.

    Raises:
        CheckpointError: it has biases that timm's network has not.
    """
    renamed = {}
    for name, value in state.items():
        if name.endswith('.attn.qkv.bias'):  # those of S, B and L are 0
            if value.abs().max() > 0:
                raise CheckpointError(f'{name} is not 0; such a DINOv3 cannot be a teacher')
            continue
        name = re.sub(r'\.ls([12])\.gamma$', r'.gamma_\1', name)
        renamed[name.replace('storage_tokens', 'reg_token')] = value
    return renamed
