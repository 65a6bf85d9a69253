"""A head of prototypes beside the classifier (PCR); the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from common.arrays import Size
from common.images.resize import interpolation_matrix, taps

NORM_FLOOR = {"torch": 1e-24, "mindspore": 1e-4}
"""Least square of a norm: PyTorch's rule divides by max(norm, 1e-12), the authors' MindSpore by sqrt(max(square, 1e-4))."""


def normalised(x: Tensor, norm: str = "torch") -> Tensor:
    """Return rows ``[...,C]`` over their norms; one below the floor of the rule ``norm`` has no gradient, never NaN."""
    return _over_norms(x, NORM_FLOOR[norm])


@ms.jit
def _over_norms(x: Tensor, floor: float) -> Tensor:
    square = (x * x).sum(-1, keepdims=True)
    large, zero = square > floor, ops.zeros_like(square)
    inverse = ops.where(large, 1 / ops.sqrt(ops.where(large, square, ops.ones_like(square))), zero)
    constant = ops.where(large, zero, ops.full_like(square, floor**-0.5))
    return x * inverse + ops.stop_gradient(x * constant)  # products: the gradients of a quotient take twice the memory


def prototype_logits(
    features: Tensor, prototypes: Tensor, temperature: float, norm: str = "torch"
) -> tuple[Tensor, Tensor]:
    """Return logits ``[N,K]`` of features ``[N,C]`` and the winning prototype of every class, int64 ``[N,K]``.

    ``prototypes`` ``[K,M,C]`` are constants; of equally similar ones the first wins. Gradient reaches ``features`` through the
    winners.
    """
    units = normalised(ops.stop_gradient(prototypes), norm)
    return _best(normalised(features, norm), units, temperature)


@ms.jit
def _best(unit: Tensor, units: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the largest cosine of ``unit`` ``[N,C]`` with each class's ``units`` ``[K,M,C]`` over the temperature, and whose it is."""
    classes, number, width = units.shape
    cosines = ops.matmul(unit, units.reshape(-1, width).T).reshape(-1, classes, number)
    best, match = ops.max(cosines, 2)
    return best / temperature, match.astype(ms.int64)


def prototype_map(
    features: Tensor, prototypes: Tensor, size: Size, temperature: float, norm: str = "torch", rows: int | None = None
) -> Tensor:
    """Return logits ``[B,K,H,W]`` of ``features`` ``[B,C,h,w]`` resized to ``size``; no gradient is meant to flow.

    ``rows`` bounds the memory: similarities of all K*M prototypes exist for so many rows of the image at a time (None: all).
    """
    batch, width, height, columns = features.shape
    units = normalised(prototypes, norm).reshape(-1, width)
    products = ops.matmul(units, features.reshape(batch, width, -1)).reshape(batch, -1, height, columns)
    lengths = ops.sqrt(_squared_norms(features, size).clamp(min=NORM_FLOOR[norm])) * temperature
    # Products of matrices, few calls: evaluation meets many sizes, and compiling for each would cost more than it saves.
    down, along = (interpolation_matrix(length, source) for length, source in zip(size, features.shape[2:]))
    across, strips = ops.matmul(products, ms.Tensor(along.T)), []
    for top in range(0, size[0], rows or size[0]):
        strip = slice(top, top + (rows or size[0]))
        similar = ops.matmul(ms.Tensor(down[strip]), across)
        best = ops.amax(similar.reshape((batch, *prototypes.shape[:2], *similar.shape[2:])), 2)
        strips.append(best / lengths[:, :, strip])
    return strips[0] if len(strips) == 1 else ops.cat(strips, 2)


def _squared_norms(features: Tensor, size: Size) -> Tensor:
    """Return ``[B,1,H,W]`` squared norms of the resized features, from inner products of neighbours at their own size.

    With g_i(x) = (1-a) f[i,left] + a f[i,right] on row i, the resized feature is (1-d) g_top + d g_bottom.
    """
    height, columns = features.shape[2:]
    right = ops.gather(features, _next(columns), 3)
    below = ops.gather(features, _next(height), 2)
    crossing = _inner(features, ops.gather(below, _next(columns), 3)) + _inner(right, below)
    (ends, mixed), (squares, beside) = (_square_weights(*sides) for sides in zip(size, features.shape[2:]))
    row = ops.matmul(_inner(features, features), squares.T) + ops.matmul(_inner(features, right), beside.T)
    pair = ops.matmul(_inner(features, below), squares.T) + ops.matmul(crossing, beside.T) / 2
    return ops.matmul(ends, row) + ops.matmul(mixed, pair)


def _next(length: int) -> Tensor:
    """Return the next position of every one of an axis; the last is its own, with weight 0."""
    return ms.Tensor(np.minimum(np.arange(length) + 1, length - 1).astype(np.int32))


def _square_weights(length: int, source: int) -> tuple[Tensor, Tensor]:
    """Return two matrices ``[length,source]``: (1-a)^2 and a^2 at an output's neighbours, and 2 a (1-a) at the lower one."""
    lower, upper, weight = taps(np.arange(length), source, length)
    squares, mixed, row = (
        np.zeros((length, source), np.float32),
        np.zeros((length, source), np.float32),
        np.arange(length),
    )
    squares[row, lower] = (1 - weight) ** 2
    squares[row, upper] += weight**2
    mixed[row, lower] = 2 * weight * (1 - weight)
    return ms.Tensor(squares), ms.Tensor(mixed)


def _inner(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(1, keepdims=True)
