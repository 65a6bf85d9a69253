"""PCR's prototype predictor and the upkeep of prototypes; the PyTorch file of the same name mirrors this one.

    s[n,k,m] = <f_n/|f_n|, P[k,m]/|P[k,m]|>,   logit[n,k] = max_m s[n,k,m] / T

Features are resized to the image before they are normalised. In training that is done at the selected pixels only; for
whole maps <f,P> is resized instead of f, which is the same sum in another order, and |f| comes from the inner products of
neighbouring positions: no resized map of all channels is ever made. Source: ``specs/pcr.md`` sections 3.2-3.6 and 8.

Everything is computed in NumPy, with gradients in closed form, and belongs outside of compiled graphs; arguments may be
tensors or arrays. What is differentiated returns a Tensor, what carries no gradient an array.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from common.metrics import IGNORE
from common.predictor import Size
from common.resize import Taps, blend, neighbours, taps

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

    return _KnownResult(best / np.float32(temperature), gradient)(features), match


def pixel_features(features: Tensor, pixels: np.ndarray, size: Size) -> Tensor:
    """Return rows ``[B*n,C]`` of ``features`` ``[B,C,h,w]`` resized to ``size``, at flat ``pixels`` ``[n]`` of every image."""
    maps = np.asarray(features)
    batch, width = maps.shape[:2]
    positions, weights = neighbours(pixels, size, maps.shape[2:])
    corners = maps.reshape(batch, width, -1)[:, :, positions]
    rows = np.einsum("bcrn,rn->bnc", corners, weights).reshape(-1, width)

    def gradient(upstream: np.ndarray) -> np.ndarray:
        order = np.argsort(positions, axis=None, kind="stable")
        place, first = np.unique(positions.ravel()[order], return_index=True)
        result = np.zeros((batch, width, maps[0, 0].size), np.float32)
        for image, part in enumerate(upstream.reshape(batch, -1, width)):
            spread = (weights[:, :, None] * part).reshape(-1, width)[order]
            result[image][:, place] = np.add.reduceat(spread, first).T
        return result.reshape(maps.shape)

    return _KnownResult(rows, gradient)(features)


def pixel_labels(labels: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the labels ``[B*n]`` of ``[B,H,W]`` at the same pixels, in the same order."""
    return labels.reshape(len(labels), -1)[:, pixels].ravel()


def prototype_sums(
    features: np.ndarray, labels: np.ndarray, match: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return what each prototype's pixels sum up to, ``[K,M,C]``, and how many there are, int64 ``[K,M]``.

    Row n of ``features`` ``[N,C]`` belongs to prototype ``match[n, labels[n]]`` of its label; 255 counts nowhere. ``shape`` is
    (K, M). Sums and counts of several processes add up.
    """
    counted = labels != IGNORE
    features, labels = np.asarray(features)[counted], labels[counted].astype(np.int64)
    index = labels * shape[1] + np.take_along_axis(match[counted], labels[:, None], 1)[:, 0]
    members = (np.arange(shape[0] * shape[1])[:, None] == index).astype(np.float32)
    return (members @ features).reshape(*shape, -1), np.bincount(index, minlength=shape[0] * shape[1]).reshape(shape)


def updated_prototypes(prototypes: np.ndarray, sums: np.ndarray, counts: np.ndarray, momentum: float) -> np.ndarray:
    """Return momentum * P + (1 - momentum) * sums / counts where there are counts, else P, ``[K,M,C]``."""
    means = sums / np.maximum(counts, 1).astype(np.float32)[:, :, None]
    moved = np.float32(momentum) * prototypes + np.float32(1 - momentum) * means
    return np.where(counts[:, :, None] > 0, moved, prototypes)


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


class _KnownResult(nn.Cell):
    """A step whose result and gradient are computed in NumPy; one instance per call."""

    def __init__(self, result: np.ndarray, gradient) -> None:
        super().__init__()
        self.result, self.gradient = result, gradient

    def construct(self, x: Tensor) -> Tensor:
        """Return the result."""
        return ms.Tensor(self.result)

    def bprop(self, x: Tensor, out: Tensor, upstream: Tensor) -> tuple[Tensor]:
        """Return ``gradient`` of the one that arrives."""
        return (ms.from_numpy(np.ascontiguousarray(self.gradient(upstream.asnumpy()), np.float32)),)


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
