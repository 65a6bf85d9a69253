"""Mixing the images of a batch by masks; the MindSpore file of the same name mirrors this one."""

from __future__ import annotations

import torch
from torch import Tensor

from common.images.mixing import partners


def mix(values: Tensor, masks: Tensor, replacement: str | float) -> Tensor:
    """Return ``values`` ``[B,...,H,W]`` where ``masks`` ``[B,H,W]`` is true, elsewhere the partner's or a constant."""
    keep = masks if values.dim() == 3 else masks.unsqueeze(1)
    if replacement == "partner":
        other = values[torch.from_numpy(partners(len(values))).to(values.device)]
    else:
        other = torch.full_like(values, replacement)
    return torch.where(keep, values, other)


def cutmix(values: Tensor, others: Tensor, boxes: Tensor) -> Tensor:
    """Return ``others`` where ``boxes`` ``[B,H,W]`` is true, elsewhere ``values``; both ``[B,...,H,W]``."""
    return torch.where(boxes if values.dim() == 3 else boxes.unsqueeze(1), others, values)
