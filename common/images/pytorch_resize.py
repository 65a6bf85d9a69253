"""Bilinear resizing with aligned corners to the last bit as PyTorch's kernel for one plane rounds it, in NumPy.

PyTorch adds the four weighted source pixels one by one where height and width of the result are at most 128 together, and
interpolates columns, then rows, elsewhere; each sum fuses its second product (the other is rounded first), as PyTorch's
kernels for x86 processors with AVX2 or more do. A map of 255 does not stay 255 everywhere: 70 x 70 to 18 x 18, for instance.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from common.arrays import Size

FOUR_PRODUCTS = 128
"""Height and width of the largest result, together, whose pixels are sums of four products."""


def resize_as_pytorch(maps: np.ndarray, size: Size) -> np.ndarray:
    """Resize float32 ``[...,h,w]`` to ``[...,H,W]`` with ``size`` = (H, W)."""
    if maps.shape[-2:] == tuple(size):
        return maps
    (top, bottom, *down), (left, right, *along) = (_taps(*sides) for sides in zip(maps.shape[-2:], size))
    corners = [maps[..., row, :][..., column] for row in (top, bottom) for column in (left, right)]
    return _blended(*corners, down, along)


@lru_cache(maxsize=8)
def corners_of_white(source: Size, size: Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return when a pixel of a map of 255 and 0, resized from ``source`` to ``size``, is 255 to the last bit.

    That depends on its four source pixels: their upper and lower rows int32 ``[2,H]``, left and right columns int32 ``[2,W]``,
    and bool ``[16,H,W]``, whose first index says which of them are 255: 8 upper left + 4 upper right + 2 lower left + lower right.
    """
    (top, bottom, *down), (left, right, *along) = (_taps(*sides) for sides in zip(source, size))
    patterns = [
        np.broadcast_to(np.float32(255 * (np.arange(16) >> bit & 1))[:, None, None], (16, *size))
        for bit in (3, 2, 1, 0)
    ]
    stays = _blended(*patterns, down, along) == 255
    return np.stack([top, bottom]).astype(np.int32), np.stack([left, right]).astype(np.int32), stays


def _blended(
    upper_left: np.ndarray, upper_right: np.ndarray, lower_left: np.ndarray, lower_right: np.ndarray, down, along
) -> np.ndarray:
    """Return the weighted sums ``[...,H,W]`` of source pixels; ``down`` and ``along``: both weights of every row and column."""
    if sum(map(len, (down[0], along[0]))) > FOUR_PRODUCTS:
        upper = _fused(upper_left, along[0], upper_right * along[1])
        lower = _fused(lower_left, along[0], lower_right * along[1])
        return _fused(upper, down[0][:, None], lower * down[1][:, None])
    result = upper_right * np.outer(down[0], along[1])
    result = _fused(upper_left, np.outer(down[0], along[0]), result)
    result = _fused(lower_left, np.outer(down[1], along[0]), result)
    return _fused(lower_right, np.outer(down[1], along[1]), result)


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
