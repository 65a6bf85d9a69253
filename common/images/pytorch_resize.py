"""Bilinear resizing with aligned corners to the last bit as PyTorch's kernel for one plane rounds it, in NumPy.

PyTorch adds the four weighted source pixels one by one where height and width of the result are at most 128 together, and
interpolates columns, then rows, elsewhere; each sum fuses its second product (the other is rounded first), as PyTorch's
kernels for x86 processors with AVX2 or more do. A map of 255 does not stay 255 everywhere: 70 x 70 to 18 x 18, for instance.
"""

from __future__ import annotations

import numpy as np

from common.arrays import Size

FOUR_PRODUCTS = 128
"""Height and width of the largest result, together, whose pixels are sums of four products."""


def resize_as_pytorch(maps: np.ndarray, size: Size) -> np.ndarray:
    """Resize float32 ``[...,h,w]`` to ``[...,H,W]`` with ``size`` = (H, W)."""
    if maps.shape[-2:] == tuple(size):
        return maps
    (top, bottom, *down), (left, right, *along) = (_taps(*sides) for sides in zip(maps.shape[-2:], size))
    upper, lower = maps[..., top, :], maps[..., bottom, :]
    if sum(size) > FOUR_PRODUCTS:
        upper, lower = (_fused(row[..., left], along[0], row[..., right] * along[1]) for row in (upper, lower))
        return _fused(upper, down[0][:, None], lower * down[1][:, None])
    result = upper[..., right] * np.outer(down[0], along[1])
    result = _fused(upper[..., left], np.outer(down[0], along[0]), result)
    result = _fused(lower[..., left], np.outer(down[1], along[0]), result)
    return _fused(lower[..., right], np.outer(down[1], along[1]), result)


def _taps(source: int, length: int) -> tuple[np.ndarray, ...]:
    """Return lower and upper source index of every output position of one axis, and the float32 weight of each."""
    step = np.float32(source - 1) / np.float32(max(length - 1, 1))
    position = step * np.arange(length, dtype=np.float32) if length > 1 else np.zeros(1, np.float32)
    lower = np.minimum(position.astype(np.intp), source - 1)
    weight = np.clip(position - lower.astype(np.float32), 0, 1)
    return lower, np.minimum(lower + 1, source - 1), 1 - weight, weight


def _fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return a * b + c rounded to float32 once: float64 holds the product of two float32 exactly."""
    return (a.astype(np.float64) * b + c).astype(np.float32)
