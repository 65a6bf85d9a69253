"""Mixing the images of a batch by masks; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

import numpy as np

from common.images.mixing import partners


def mix(values: np.ndarray, masks: np.ndarray, replacement: str | float) -> np.ndarray:
    """Return ``values`` ``[B,...,H,W]`` where ``masks`` ``[B,H,W]`` is true, elsewhere the partner's or a constant."""
    values = np.asarray(values)
    keep = masks if values.ndim == 3 else masks[:, None]
    other = values[partners(len(values))] if replacement == "partner" else values.dtype.type(replacement)
    return np.where(keep, values, other)


def cutmix(values: np.ndarray, others: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return ``others`` where ``boxes`` ``[B,H,W]`` is true, elsewhere ``values``; both ``[B,...,H,W]``."""
    return np.where(boxes if values.ndim == 3 else boxes[:, None], others, values)
