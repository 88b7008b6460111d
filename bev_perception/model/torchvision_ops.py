"""Let torchvision (and so timm) import where its compiled operators do not match torch.

There is no CPU build of torchvision for torch 2.13 on PyPI: the wheel's library is linked to CUDA,
and its Python side then fails on two operator schemas. Declaring them is enough for models and
transforms; `nms` itself stays missing. Import this module before timm; where torchvision's
operators do load (a CUDA or a distribution's build), it does nothing.
"""

from __future__ import annotations

import torch

_FRAGMENT: torch.library.Library | None = None  # operators live as long as this object

if torch.version.cuda is None and not hasattr(torch.ops.torchvision, 'nms'):
    _FRAGMENT = torch.library.Library('torchvision', 'FRAGMENT')
    _FRAGMENT.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    _FRAGMENT.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
