"""Resizing of maps on the device; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from common.arrays import Size


def resize(x: Tensor, size: Size) -> Tensor:
    """Resize ``[B,C,h,w]`` bilinearly with align_corners to ``size``: output i samples at i*(in-1)/(out-1)."""
    size = (int(size[0]), int(size[1]))  # MindSpore refuses NumPy's integers
    if x.shape[2:] == size:
        return x
    return ops.interpolate(x, size=size, mode="bilinear", align_corners=True)


def halve(x: Tensor) -> Tensor:
    """Return the means of 2x2 fields of ``[B,C,h,w]``; an odd last row or column is left out."""
    return ops.avg_pool2d(x, 2, 2)


def nearest_floor(x: Tensor, size: Size) -> Tensor:
    """Reduce ``[B,H,W]`` to ``size`` by picking source index floor(i * in / out) on each axis."""
    rows, columns = (ms.Tensor(np.floor(np.arange(o) * (i / o)), ms.int32) for i, o in zip(x.shape[1:], size))
    return ops.gather(ops.gather(x, rows, 1), columns, 2)
