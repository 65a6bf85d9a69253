"""Resizing of maps on the device; the MindSpore file of the same name mirrors this one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.arrays import Size


def resize(x: Tensor, size: Size) -> Tensor:
    """Resize ``[B,C,h,w]`` bilinearly with align_corners to ``size``: output i samples at i*(in-1)/(out-1)."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def halve(x: Tensor) -> Tensor:
    """Return the means of 2x2 fields of ``[B,C,h,w]``; an odd last row or column is left out."""
    return F.avg_pool2d(x, 2)


def nearest_floor(x: Tensor, size: Size) -> Tensor:
    """Reduce ``[B,H,W]`` to ``size`` by picking source index floor(i * in / out) on each axis."""
    rows, columns = ((torch.arange(o) * (i / o)).floor().long().to(x.device) for i, o in zip(x.shape[1:], size))
    return x[:, rows][:, :, columns]
