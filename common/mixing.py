"""Masks of CutMix, CutOut and ClassMix, drawn on the host so that every framework mixes alike (``specs/u2pl.md`` section 6)."""

from __future__ import annotations

import cv2
import numpy as np

Box = tuple[int, int, int, int]
"""Half-open rectangle: top, left, bottom, right."""


def half_area_box(size: tuple[int, int], width: int, left: int, top: int) -> Box:
    """The box of ``width`` columns at (``top``, ``left``) that covers half of ``size`` = (H, W); height rounds half to even."""
    height = round(size[0] * size[1] / 2 / width)
    return top, left, top + height, left + width


def draw_half_area_box(size: tuple[int, int], rng: np.random.Generator) -> Box:
    """Draw width, left and top (in this order) of a box of half the area, wider than half the image."""
    image_height, image_width = size
    width = int(rng.integers(int(image_width / 2 + 1), image_width))
    height = half_area_box(size, width, 0, 0)[2]
    left = int(rng.integers(0, image_width - width + 1))
    top = int(rng.integers(0, image_height - height + 1))
    return half_area_box(size, width, left, top)


def proportioned_box(size: tuple[int, int], u: float, v_top: float, v_left: float) -> Box:
    """The box of half the area with height share 0.5**u and width share 0.5**(1-u); ``v_*`` of [0, 1] place it.

    Lengths and positions are rounded half to even (``specs/u2pl.md`` section 12).
    """
    height, width = (round(0.5**power * side) for power, side in zip((u, 1 - u), size))
    top, left = (round(v * (side - length)) for v, side, length in zip((v_top, v_left), size, (height, width)))
    return top, left, top + height, left + width


def component_boxes(labels: np.ndarray, category: int, area: float) -> list[Box]:
    """Return the bounding boxes of the 8-connected components of ``category`` in ``labels`` with more than ``area`` pixels."""
    member = (labels == category).astype(np.uint8)
    _, _, components, _ = cv2.connectedComponentsWithStats(member, connectivity=8)
    large = components[1:][components[1:, cv2.CC_STAT_AREA] > area].tolist()
    return [(top, left, top + height, left + width) for left, top, width, height, _ in large]


def paste_classes(
    images: np.ndarray, labels: np.ndarray, other: np.ndarray, other_labels: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``images`` ``[B,3,H,W]`` and ``labels`` ``[B,H,W]`` under the pixels of ``classes`` in the other images.

    Image i receives from image i of ``other``; a label map of nothing but 0 stands for no image.
    """
    pasted = np.isin(other_labels, classes) & other_labels.any((1, 2), keepdims=True)
    return np.where(pasted[:, None], other, images), np.where(pasted, other_labels, labels)


def draw_area_box(size: int, rng: np.random.Generator, probability: float = 0.5) -> Box | None:
    """Draw UniMatch's CutMix box in ``size`` x ``size``, or None with 1 - ``probability`` (``specs/uccl.md`` section 7).

    An area of 2 to 40 % of the image; then height / width from 0.3 to 1 / 0.3 and the corner, until the box lies inside.
    """
    if rng.random() > probability:
        return None
    area = rng.uniform(0.02, 0.4) * size * size
    while True:
        ratio = rng.uniform(0.3, 1 / 0.3)
        width, height = int(np.sqrt(area / ratio)), int(np.sqrt(area * ratio))
        left, top = int(rng.integers(0, size)), int(rng.integers(0, size))
        if left + width <= size and top + height <= size:
            return top, left, top + height, left + width


def box_mask(size: tuple[int, int], box: Box) -> np.ndarray:
    """Return bool ``[H,W]``: false inside ``box`` (those pixels are replaced), true elsewhere."""
    mask = np.ones(size, dtype=bool)
    top, left, bottom, right = box
    mask[top:bottom, left:right] = False
    return mask


def class_mask(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return bool ``[H,W]``: true on a random half (rounded down) of the classes present in ``labels`` ``[H,W]``."""
    present = np.unique(labels)
    chosen = rng.choice(present, size=len(present) // 2, replace=False)
    return np.isin(labels, chosen)


def partners(batch: int) -> np.ndarray:
    """Index of the image each image of a batch is mixed with: the next one, the last with the first."""
    return (np.arange(batch) + 1) % batch


def area_sides(area: np.ndarray, exponent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return heights area^exponent and widths with ``height * width = area``, all as shares of the image."""
    heights = np.exp(exponent * np.log(area))
    return heights, area / heights


def placed_boxes(size: tuple[int, int], sides: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return int64 ``[...,4]`` boxes of ``sides`` ``[...,2]`` (shares of ``size``) at ``places`` ``[...,2]`` in [0, 1].

    Sides and positions round half to even; 0 and 1 are the first and the last position inside the image.
    """
    shape = np.array(size)
    extent = np.round(sides * shape)
    start = np.round((shape - extent) * places)
    return np.concatenate([start, start + extent], -1).astype(np.int64)


def toggled_mask(size: tuple[int, int], boxes: np.ndarray, invert: bool = True) -> np.ndarray:
    """Return bool ``[H,W]``: false (with ``invert``, else true) outside of ``boxes``, turned round by every box in turn."""
    mask = np.full(size, not invert)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] ^= True
    return mask


def draw_toggled_masks(
    count: int,
    size: tuple[int, int],
    rng: np.random.Generator,
    area_range: tuple[float, float] = (0.25, 0.5),
    boxes: int = 3,
    invert: bool = True,
) -> np.ndarray:
    """Draw CutMix masks bool ``[count,H,W]`` of several boxes each (CPS and CPCL, ``specs/cpcl.md`` section 6.3).

    Each box has an area in ``area_range`` over the number of boxes, any aspect and place. Drawn in this order: the areas
    of all boxes, the exponents of their heights, their places. True is where the other image shows.
    """
    area = rng.uniform(*area_range, size=(count, boxes))
    sides = np.stack(area_sides(area, rng.uniform(size=(count, boxes))), -1) * np.sqrt(1 / boxes)
    placed = placed_boxes(size, sides, rng.uniform(size=(count, boxes, 2)))
    return np.stack([toggled_mask(size, own, invert) for own in placed])
