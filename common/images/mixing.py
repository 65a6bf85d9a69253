"""Masks of CutMix, CutOut and ClassMix, drawn on the host so that every framework mixes alike.

Source: U2PL's ``u2pl/dataset/augmentation.py``.
"""

from __future__ import annotations

import numpy as np

from common.arrays import Box, Size


def half_area_box(size: Size, width: int, left: int, top: int) -> Box:
    """The box of ``width`` columns at (``top``, ``left``) that covers half of ``size`` = (H, W); height rounds half to even."""
    height = round(size[0] * size[1] / 2 / width)
    return Box(top, left, top + height, left + width)


def draw_half_area_box(size: Size, rng: np.random.Generator) -> Box:
    """Draw width, left and top (in this order) of a box of half the area, wider than half the image."""
    image_height, image_width = size
    width = int(rng.integers(int(image_width / 2 + 1), image_width))
    height = half_area_box(size, width, 0, 0).bottom
    left = int(rng.integers(0, image_width - width + 1))
    top = int(rng.integers(0, image_height - height + 1))
    return half_area_box(size, width, left, top)


def box_mask(size: Size, box: Box) -> np.ndarray:
    """Return bool ``[H,W]``: false inside ``box`` (those pixels are replaced), true elsewhere."""
    mask = np.ones(size, dtype=bool)
    mask[box.rows, box.columns] = False
    return mask


def class_mask(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return bool ``[H,W]``: true on a random half (rounded down) of the classes present in ``labels`` ``[H,W]``."""
    present = np.unique(labels)
    chosen = rng.choice(present, size=len(present) // 2, replace=False)
    return np.isin(labels, chosen)


def partners(batch: int, groups: int = 1) -> np.ndarray:
    """Index of the image each image of a batch is mixed with: the next one of its group, the last with the group's first."""
    each = batch // groups
    return ((np.arange(each) + 1) % each + each * np.arange(groups)[:, None]).ravel()
