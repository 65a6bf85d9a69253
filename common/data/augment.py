"""Augmentation pipelines: from one decoded image and its label images to the arrays of one training sample.

A pipeline is split into drawing (random numbers only) and applying (no randomness), so that recorded draws can be
replayed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from common.config import AugmentConfig

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
        down, along = (nearest_index(old, new) for old, new in zip(label.shape, size))
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


def resize_linear(
    image: np.ndarray, size: tuple[int, int], rows: np.ndarray, columns: np.ndarray, config: AugmentConfig
) -> np.ndarray:
    """Return the pixels at ``rows`` and ``columns`` of the normalised image resized to ``size``, float32 ``[3,R,C]``.

    Bilinear with half-pixel centres and no antialiasing, source positions in float32 as PyTorch computes them: OpenCV's
    own rounding of positions differs by up to 2e-4 of the largest value on large images. Only what the crop shows is
    computed.
    """
    (top, bottom, down), (left, right, along) = (
        _linear_taps(old, new, picked) for old, new, picked in zip(image.shape, size, (rows, columns))
    )
    row, column = top.min(), left.min()
    used = normalise(image[row : bottom.max() + 1, column : right.max() + 1], config)
    used = np.ascontiguousarray(used.transpose(2, 0, 1))
    across = np.take(used, left - column, 2) * (1 - along) + np.take(used, right - column, 2) * along
    return np.take(across, top - row, 1) * (1 - down[:, None]) + np.take(across, bottom - row, 1) * down[:, None]


def _linear_taps(old: int, new: int, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lower and upper source index and the upper one's weight for the ``picked`` of ``new`` output positions."""
    ratio = float(np.float32(old) / np.float32(new))
    # Computed in float64 and rounded once, as a fused multiply-add does.
    source = np.maximum(ratio * (picked + 0.5) - 0.5, 0).astype(np.float32)
    lower = np.minimum(source.astype(np.int64), old - 1)
    return lower, np.minimum(lower + 1, old - 1), source - lower.astype(np.float32)


def weak(image: np.ndarray, labels: Labels, config: AugmentConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random resize, flip and crop: :func:`apply_weak` with fresh draws."""
    return apply_weak(image, labels, draw_weak(*image.shape[:2], config, rng), config)


def paste(image: np.ndarray, labels: Labels, config: AugmentConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The image that copy-paste takes pixels from: :func:`weak` with ``config.paste_resize_range``."""
    return weak(image, labels, dataclasses.replace(config, resize_range=config.paste_resize_range), rng)


def center_crop(
    image: np.ndarray, label: np.ndarray, size: int, config: AugmentConfig, pad_label: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the authors' validation input: the normalised centre window, padded where the image is smaller.

    float32 ``[3,size,size]`` (padding 0) and uint8 ``[size,size]`` (padding ``pad_label``); ``specs/u2pl.md`` section
    2.2, last paragraph.
    """
    image = pad_to(normalise(image, config), size, 0.0)
    label = pad_to(label, size, pad_label)
    top, left = ((side - size) // 2 for side in label.shape)
    window = (slice(top, top + size), slice(left, left + size))
    return np.ascontiguousarray(image[window].transpose(2, 0, 1)), np.ascontiguousarray(label[window])


def normalise(image: np.ndarray, config: AugmentConfig) -> np.ndarray:
    """RGB ``[H,W,3]`` to float32 ``[H,W,3]``: minus ``config.mean``, over ``config.std`` (both on the 0..255 scale)."""
    mean, std = np.float32(config.mean), np.float32(config.std)
    if image.dtype != np.uint8:
        return (image.astype(np.float32) - mean) / std
    values = np.arange(256, dtype=np.float32)[:, None]  # a table gives the same numbers eight times faster
    return cv2.LUT(np.ascontiguousarray(image), ((values - mean) / std)[None])


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width times ``scale``, truncated, at least one pixel."""
    return max(int(height * scale), 1), max(int(width * scale), 1)


def nearest_index(old: int, new: int) -> np.ndarray:
    """Return the source index floor(i * old / new) of every output position i, computed in float32 as PyTorch does."""
    ratio = np.float32(old) / np.float32(new)
    return np.minimum((np.arange(new, dtype=np.float32) * ratio).astype(np.int64), old - 1)


def pad_to(plane: np.ndarray, size: int, fill: float) -> np.ndarray:
    """Pad ``[H,W,...]`` to at least ``size`` x ``size``; top and left get half of the missing pixels, rounded down."""
    missing = [max(size - side, 0) for side in plane.shape[:2]]
    margins = [(gap // 2, gap - gap // 2) for gap in missing]
    if not any(missing):
        return plane
    return np.pad(plane, margins + [(0, 0)] * (plane.ndim - 2), constant_values=fill)


PIPELINES: dict[str, Callable[[np.ndarray, Labels, AugmentConfig, np.random.Generator], dict[str, np.ndarray]]] = {
    "weak": weak,
    "paste": paste,
}
