"""A head of prototypes beside the classifier (PCR); the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor

from common.arrays import Size
from common.images.resize import Taps, blend, taps
from mindspore_impl.known_gradient import KnownResult

NORM_FLOOR = {"torch": 1e-24, "mindspore": 1e-4}
"""Least square of a norm: PyTorch's rule divides by max(norm, 1e-12), the authors' MindSpore by sqrt(max(square, 1e-4))."""


def normalised(x: np.ndarray, norm: str = "torch") -> np.ndarray:
    """Return rows ``[...,C]`` over their norms; one below the floor of the rule ``norm`` has no gradient, never NaN."""
    x = np.asarray(x)
    return x / _lengths(x, norm)


def prototype_logits(
    features: Tensor, prototypes: np.ndarray, temperature: float, norm: str = "torch"
) -> tuple[Tensor, np.ndarray]:
    """Return logits ``[N,K]`` of features ``[N,C]`` and the winning prototype of every class, int64 ``[N,K]``.

    ``prototypes`` ``[K,M,C]`` are constants; of equally similar ones the first wins. Gradient reaches ``features`` through the
    winners.
    """
    rows, prototypes = np.asarray(features), np.asarray(prototypes)
    units = normalised(prototypes, norm).reshape(-1, rows.shape[1])
    unit = normalised(rows, norm)
    cosines = (unit @ units.T).reshape(len(rows), *prototypes.shape[:2])
    match = cosines.argmax(2)
    best = np.take_along_axis(cosines, match[:, :, None], 2)[:, :, 0]

    def gradient(upstream: np.ndarray) -> np.ndarray:
        spread = np.zeros_like(cosines)
        np.put_along_axis(spread, match[:, :, None], (upstream / np.float32(temperature))[:, :, None], 2)
        pulled = spread.reshape(len(rows), -1) @ units
        along = (pulled * unit).sum(1, keepdims=True) * unit
        return np.where(_squares(rows) > NORM_FLOOR[norm], (pulled - along) / _lengths(rows, norm), np.float32(0))

    return KnownResult(best / np.float32(temperature), gradient)(features), match


def prototype_map(
    features: Tensor,
    prototypes: np.ndarray,
    size: Size,
    temperature: float,
    norm: str = "torch",
    rows: int | None = None,
) -> Tensor:
    """Return logits ``[B,K,H,W]`` of ``features`` ``[B,C,h,w]`` resized to ``size``; no gradient is meant to flow.

    ``rows`` bounds the memory: similarities of all K*M prototypes exist for so many rows of the image at a time (None: all).
    """
    maps, shape = np.asarray(features), prototypes.shape
    units = normalised(prototypes, norm).reshape(-1, shape[2])
    products = (units @ maps.reshape(*maps.shape[:2], -1)).reshape(len(maps), -1, *maps.shape[2:])
    down, along = (taps(np.arange(length), source, length) for source, length in zip(maps.shape[2:], size))
    lengths = np.sqrt(np.maximum(_squared_norms(maps, down, along), np.float32(NORM_FLOOR[norm])))
    result = np.empty((len(maps), shape[0], *size), np.float32)
    for top in range(0, size[0], rows or size[0]):
        strip = slice(top, top + (rows or size[0]))
        similar = blend(blend(products, tuple(tap[strip] for tap in down), 2), along, 3)
        best = similar.reshape(len(maps), *shape[:2], *similar.shape[2:]).max(2)
        result[:, :, strip] = best / (lengths[:, :, strip] * np.float32(temperature))
    return ms.Tensor(result)


def _squares(x: np.ndarray) -> np.ndarray:
    return (x * x).sum(-1, keepdims=True)


def _lengths(x: np.ndarray, norm: str) -> np.ndarray:
    return np.sqrt(np.maximum(_squares(x), x.dtype.type(NORM_FLOOR[norm])))


def _squared_norms(features: np.ndarray, down: Taps, along: Taps) -> np.ndarray:
    """Return ``[B,1,H,W]`` squared norms of the resized features, from inner products of neighbours at their own size.

    With g_i(x) = (1-a) f[i,left] + a f[i,right] on row i, the resized feature is (1-d) g_top + d g_bottom.
    """
    own = _inner(features, features)
    beside = _inner(features[:, :, :, :-1], features[:, :, :, 1:])
    under = _inner(features[:, :, :-1], features[:, :, 1:])
    crossing = _inner(features[:, :, :-1, :-1], features[:, :, 1:, 1:])
    crossing = crossing + _inner(features[:, :, :-1, 1:], features[:, :, 1:, :-1])
    left, right, a = along
    row = (1 - a) * (1 - a) * own[..., left] + a * a * own[..., right]
    row = row + 2 * a * (1 - a) * _extended(beside, own)[..., left]
    pair = (1 - a) * (1 - a) * under[..., left] + a * a * under[..., right]
    pair = _extended(pair + a * (1 - a) * _extended(crossing, under)[..., left], row)
    top, bottom, d = down
    d = d[:, None]
    ends = (1 - d) * (1 - d) * row[:, :, top] + d * d * row[:, :, bottom]
    return ends + 2 * d * (1 - d) * pair[:, :, top]


def _inner(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.einsum("bchw,bchw->bhw", first, second)[:, None]


def _extended(maps: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Append a row or column of zeros where ``like`` has one more: a neighbour beyond the border has weight 0."""
    return np.pad(maps, [(0, 0), (0, 0), *((0, more - less) for more, less in zip(like.shape[2:], maps.shape[2:]))])
