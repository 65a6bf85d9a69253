"""Bilinear resizing with aligned corners in NumPy, for runtimes and files that bring none."""

from __future__ import annotations

import numpy as np

from common.arrays import Size


def resize_bilinear(maps: np.ndarray, size: Size) -> np.ndarray:
    """Resize float32 ``[B,C,h,w]`` to ``[B,C,H,W]`` with ``size`` = (H, W); corner pixels keep their values.

    Output pixel i lies at i * (h - 1) / (H - 1) of the input, at 0 when H is 1. Returns ``maps`` itself when it already
    has that size.
    """
    if maps.dtype != np.float32 or maps.ndim != 4:
        raise TypeError(f"float32 [B,C,h,w] expected, not {maps.dtype} with {maps.ndim} axes")
    if min(maps.shape[2:]) < 1 or min(size) < 1:
        raise ValueError(f"cannot resize {maps.shape[2:]} to {tuple(size)}: sides must be at least 1")
    # Columns first: the intermediate map is small and the row step then copies whole contiguous rows.
    return _interpolate(_interpolate(maps, size[1], axis=3), size[0], axis=2)


def _interpolate(maps: np.ndarray, length: int, axis: int) -> np.ndarray:
    source = maps.shape[axis]
    if source == length:
        return maps
    return blend(maps, taps(np.arange(length), source, length), axis)


Taps = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Lower and upper source index of some output positions of one axis and the upper one's weight (float32)."""


def taps(outputs: np.ndarray, source: int, length: int) -> Taps:
    """Return where the positions ``outputs`` of an axis resized from ``source`` to ``length`` come from."""
    # Positions in float64: in float32 they are off by up to 1e-4 pixel at a side of 2048.
    position = outputs * ((source - 1) / max(length - 1, 1))
    lower = np.minimum(position.astype(np.intp), source - 1)
    return lower, np.minimum(lower + 1, source - 1), (position - lower).astype(np.float32)


def blend(maps: np.ndarray, of_axis: Taps, axis: int) -> np.ndarray:
    """Return ``[B,C,h,w]`` with axis 2 or 3 resized to the positions of its taps."""
    lower, upper, weight = of_axis
    weight = weight[:, None] if axis == 2 else weight
    result = np.take(maps, lower, axis=axis)
    result *= 1 - weight
    other = np.take(maps, upper, axis=axis)
    other *= weight
    result += other
    return result


def neighbours(pixels: np.ndarray, size: Size, source: Size) -> tuple[np.ndarray, np.ndarray]:
    """Return where single pixels of a map resized to ``size`` = (H, W) come from, and with which weights.

    ``pixels`` ``[N]`` are flat positions row * W + column; ``source`` = (h, w) is the size before. The result is flat
    positions row * w + column, int64 ``[4,N]``, and weights float32 ``[4,N]``, which add up to 1 for every pixel.
    """
    top, bottom, down = taps(pixels // size[1], source[0], size[0])
    left, right, along = taps(pixels % size[1], source[1], size[1])
    positions = np.stack(
        [top * source[1] + left, top * source[1] + right, bottom * source[1] + left, bottom * source[1] + right]
    )
    weights = np.stack([(1 - down) * (1 - along), (1 - down) * along, down * (1 - along), down * along])
    return positions.astype(np.int64), weights


def interpolation_matrix(length: int, source: int) -> np.ndarray:
    """Return float32 ``[length,source]``: what resizing multiplies an axis of ``source`` by to make it ``length`` long."""
    lower, upper, weight = taps(np.arange(length), source, length)
    matrix = np.zeros((length, source), np.float32)
    rows = np.arange(length)
    matrix[rows, lower] = 1 - weight
    matrix[rows, upper] += weight
    return matrix
