"""Resizing, cropping and padding of single images."""

from __future__ import annotations

import numpy as np

from common.arrays import Size, center_box
from common.config.schema import Normalisation
from common.errors import UserError
from common.images.normalise import normalise, planes


def resize_linear(
    image: np.ndarray, size: Size, rows: np.ndarray, columns: np.ndarray, normalisation: Normalisation
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
    used = planes(image[row : bottom.max() + 1, column : right.max() + 1], normalisation)
    result = np.empty((len(used), len(rows), len(columns)), np.float32)
    for plane, out in zip(used, result):  # one plane at a time stays in the processor's cache
        across = _blend(plane, left - column, right - column, along, 1)
        _blend(across, top - row, bottom - row, down[:, None], 0, out)
    return result


def _blend(
    plane: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    weight: np.ndarray,
    axis: int,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return the lines ``lower`` of an axis times 1 - ``weight`` plus the lines ``upper`` times ``weight``, in ``out`` if given."""
    out = np.take(plane, lower, axis, out=out, mode="clip")
    out *= 1 - weight
    other = np.take(plane, upper, axis, mode="clip")
    other *= weight
    out += other
    return out


def _linear_taps(old: int, new: int, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lower and upper source index and the upper one's weight for the ``picked`` of ``new`` output positions."""
    ratio = float(np.float32(old) / np.float32(new))
    # Computed in float64 and rounded once, as a fused multiply-add does.
    source = np.maximum(ratio * (picked + 0.5) - 0.5, 0).astype(np.float32)
    lower = np.minimum(source.astype(np.int64), old - 1)
    return lower, np.minimum(lower + 1, old - 1), source - lower.astype(np.float32)


def center_crop(
    image: np.ndarray, label: np.ndarray, size: int, normalisation: Normalisation, pad_label: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the authors' validation input: the normalised centre window, padded where the image is smaller.

    float32 ``[3,size,size]`` (padding 0) and uint8 ``[size,size]`` (padding ``pad_label``), as in U2PL's
    ``u2pl/dataset/augmentation.py``.
    """
    image = pad_to(normalise(image, normalisation), size, 0.0)
    label = pad_to(label, size, pad_label)
    box = center_box(label.shape, (size, size))
    pixels = image[box.rows, box.columns].transpose(2, 0, 1)
    return np.ascontiguousarray(pixels), np.ascontiguousarray(label[box.rows, box.columns])


def scaled_size(height: int, width: int, scale: float) -> Size:
    """Height and width times ``scale``, truncated, at least one pixel."""
    return max(int(height * scale), 1), max(int(width * scale), 1)


def size_of_long_side(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Height and width after resizing the longer one to ``long_side``; the other one rounded half up, at least one pixel."""
    if height > width:
        return long_side, max(int(long_side * width / height + 0.5), 1)
    return max(int(long_side * height / width + 0.5), 1), long_side


def nearest_float32(old: int, new: int) -> np.ndarray:
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


def reflect_pad(images: np.ndarray, multiple: int) -> np.ndarray:
    """Pad ``[B,3,H,W]`` at the bottom and the right, by reflection without the border pixel, to multiples of ``multiple``."""
    margins = [-side % multiple for side in images.shape[2:]]
    if any(margin >= side for margin, side in zip(margins, images.shape[2:])):
        height, width = images.shape[2:]
        raise UserError(
            f"an image of {width}x{height} pixels is too small to be padded by reflection to multiples of {multiple}; "
            "set evaluation.pad_multiple=1"
        )
    return np.pad(images, [(0, 0), (0, 0), (0, margins[0]), (0, margins[1])], mode="reflect")
