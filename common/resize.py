"""Bilinear resizing with aligned corners in NumPy, for runtimes and files that bring none."""

from __future__ import annotations

import numpy as np


def resize_bilinear(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
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
    lower, upper, weight = _taps(length, source)
    if axis == 2:
        weight = weight[:, None]
    result = np.take(maps, lower, axis=axis)
    result *= 1 - weight
    other = np.take(maps, upper, axis=axis)
    other *= weight
    result += other
    return result


def interpolation_matrix(length: int, source: int) -> np.ndarray:
    """Return float32 ``[length,source]``: what resizing multiplies an axis of ``source`` by to make it ``length`` long."""
    lower, upper, weight = _taps(length, source)
    matrix = np.zeros((length, source), np.float32)
    rows = np.arange(length)
    matrix[rows, lower] = 1 - weight
    matrix[rows, upper] += weight
    return matrix


def _taps(length: int, source: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lower and upper source index and the upper one's weight for every output position."""
    # Positions in float64: in float32 they are off by up to 1e-4 pixel at a side of 2048.
    position = np.arange(length) * ((source - 1) / max(length - 1, 1))
    lower = np.minimum(position.astype(np.intp), source - 1)
    return lower, np.minimum(lower + 1, source - 1), (position - lower).astype(np.float32)
