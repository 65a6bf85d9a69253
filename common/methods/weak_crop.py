"""Augmentation pipelines: from one decoded image and its label images to the arrays of one training sample.

A pipeline is split into drawing (random numbers only) and applying (no randomness), so that recorded draws can be
replayed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from common.config.schema import AugmentConfig
from common.images.geometry import nearest_float32, resize_linear, scaled_size

Labels = Mapping[str, np.ndarray]
"""Label images uint8 ``[H,W]`` by name; all of them follow the geometry of the image."""


@dataclass(frozen=True, kw_only=True)
class WeakDraws:
    """What ``weak`` decides at random; ``top`` and ``left`` count in the resized and padded image."""

    scale: float
    flip: bool
    top: int
    left: int


def scale_from_draws(a: float, b: float, resize_range: tuple[float, float]) -> float:
    """Return the scale of two draws from [0, 1): ``a`` < 0.5 shrinks to ``low..1``, else it enlarges to ``1..high``.

    ``b`` is the position in that range (``specs/u2pl.md`` section 2.2, step 3).
    """
    low, high = resize_range
    return low + (1 - low) * b if a < 0.5 else 1 + (high - 1) * b


def draw_weak(height: int, width: int, config: AugmentConfig, rng: np.random.Generator) -> WeakDraws:
    """Draw scale (two numbers), flip, top and left, in this order, for an image of ``height`` x ``width`` pixels."""
    scale = scale_from_draws(rng.random(), rng.random(), config.resize_range)
    flip = rng.random() < config.flip
    spare = [max(side - config.crop, 0) for side in scaled_size(height, width, scale)]
    top, left = (int(rng.integers(0, room + 1)) for room in spare)
    return WeakDraws(scale=scale, flip=flip, top=top, left=left)


def apply_weak(image: np.ndarray, labels: Labels, draws: WeakDraws, config: AugmentConfig) -> dict[str, np.ndarray]:
    """Normalise, resize, flip, pad and crop one image and its labels alike (``specs/u2pl.md`` section 2.2).

    ``image`` is uint8 RGB ``[H,W,3]``. Returns ``image`` float32 ``[3,S,S]`` and every label uint8 ``[S,S]``, S =
    ``config.crop``. Padding is 0 in the image (the mean colour) and ``config.pad_label`` in the labels.
    """
    size = scaled_size(*image.shape[:2], draws.scale)
    rows, row_margin = _crop_window(size[0], config.crop, draws.top)
    columns, column_margin = _crop_window(size[1], config.crop, draws.left)
    if draws.flip:
        columns = size[1] - 1 - columns
    pixels = resize_linear(image, size, rows, columns, config)
    sample = {"image": np.pad(pixels, [(0, 0), row_margin, column_margin])}
    for name, label in labels.items():
        down, along = (nearest_float32(old, new) for old, new in zip(label.shape, size))
        picked = label[down[rows][:, None], along[columns]]
        sample[name] = np.pad(picked, [row_margin, column_margin], constant_values=config.pad_label)
    return sample


def _crop_window(length: int, crop: int, start: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Return which of ``length`` positions a window from ``start`` of the padded axis shows, and its margins."""
    before = max(crop - length, 0) // 2
    positions = np.arange(start, start + crop) - before
    shown = positions[(positions >= 0) & (positions < length)]
    leading = int((positions < 0).sum())
    return shown, (leading, crop - len(shown) - leading)


def weak(image: np.ndarray, labels: Labels, config: AugmentConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random resize, flip and crop: :func:`apply_weak` with fresh draws."""
    return apply_weak(image, labels, draw_weak(*image.shape[:2], config, rng), config)


def paste(image: np.ndarray, labels: Labels, config: AugmentConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The image that copy-paste takes pixels from: :func:`weak` with ``config.paste_resize_range``."""
    return weak(image, labels, dataclasses.replace(config, resize_range=config.paste_resize_range), rng)


PIPELINES: dict[str, Callable[[np.ndarray, Labels, AugmentConfig, np.random.Generator], dict[str, np.ndarray]]] = {
    "weak": weak,
    "paste": paste,
}
