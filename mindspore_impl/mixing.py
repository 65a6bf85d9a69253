"""Mixing the images of a batch by masks; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

import numpy as np

from common.mixing import partners


def mix(values: np.ndarray, masks: np.ndarray, replacement: str | float | np.ndarray) -> np.ndarray:
    """Return ``values`` ``[B,...,H,W]`` where ``masks`` ``[B,H,W]`` is true, elsewhere ``replacement``.

    That is ``partner`` (the next image's values), a constant, or values of the same shape.
    """
    values = np.asarray(values)
    keep = masks if values.ndim == 3 else masks[:, None]
    if isinstance(replacement, np.ndarray):
        other = replacement
    elif replacement == "partner":
        other = values[partners(len(values))]
    else:
        other = values.dtype.type(replacement)
    return np.where(keep, values, other)


def cutmix(values: np.ndarray, others: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return ``others`` where ``boxes`` ``[B,H,W]`` is true, elsewhere ``values``; both ``[B,...,H,W]``."""
    return np.where(boxes if values.ndim == 3 else boxes[:, None], others, values)
