"""Mixing the images of a batch by masks; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

from common.images.mixing import partners


def mix(values: Tensor, masks: Tensor, replacement: str | float) -> Tensor:
    """Return ``values`` ``[B,...,H,W]`` where ``masks`` ``[B,H,W]`` is true, elsewhere the partner's or a constant."""
    keep = masks if values.ndim == 3 else masks.expand_dims(1)
    if replacement == "partner":
        other = ops.gather(values, ms.Tensor(partners(len(values)), ms.int32), 0)
    else:
        other = ops.full_like(values, replacement)
    return ops.where(keep, values, other)


def cutmix(values: Tensor, others: Tensor, boxes: Tensor) -> Tensor:
    """Return ``others`` where ``boxes`` ``[B,H,W]`` is true, elsewhere ``values``; both ``[B,...,H,W]``."""
    return ops.where(boxes if values.ndim == 3 else boxes.expand_dims(1), others, values)
