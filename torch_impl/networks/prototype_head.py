"""A head of prototypes beside the classifier (PCR); the MindSpore file of the same name mirrors this one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.arrays import Size
from torch_impl.resize import resize

NORM_FLOOR = {"torch": 1e-24, "mindspore": 1e-4}
"""Least square of a norm: PyTorch's rule divides by max(norm, 1e-12), the authors' MindSpore by sqrt(max(square, 1e-4))."""


CHANNELS_AT_ONCE = 64


def normalised(x: Tensor, norm: str = "torch") -> Tensor:
    """Return rows ``[...,C]`` over their norms; one below the floor of the rule ``norm`` has no gradient, never NaN."""
    floor = NORM_FLOOR[norm]
    square = (x * x).sum(-1, keepdim=True)
    steady = torch.where(square > floor, x, x.detach())
    return steady / (steady * steady).sum(-1, keepdim=True).clamp(min=floor).sqrt()


def prototype_logits(
    features: Tensor, prototypes: Tensor, temperature: float, norm: str = "torch"
) -> tuple[Tensor, Tensor]:
    """Return logits ``[N,K]`` of features ``[N,C]`` and the winning prototype of every class, int64 ``[N,K]``.

    ``prototypes`` ``[K,M,C]`` are constants; of equally similar ones the first wins. Gradient reaches ``features`` through the
    winners.
    """
    cosines = normalised(features, norm) @ normalised(prototypes.detach(), norm).flatten(0, 1).T
    best, match = cosines.view(len(features), *prototypes.shape[:2]).max(2)
    return best / temperature, match


def prototype_map(
    features: Tensor, prototypes: Tensor, size: Size, temperature: float, norm: str = "torch", rows: int | None = None
) -> Tensor:
    """Return logits ``[B,K,H,W]`` of ``features`` ``[B,C,h,w]`` resized to ``size``; no gradient is meant to flow.

    ``rows`` bounds the memory: similarities of all K*M prototypes exist for so many rows of the image at a time (None: all).
    """
    units = normalised(prototypes, norm).flatten(0, 1)
    products = F.conv2d(features, units[:, :, None, None])
    down, along = (_taps(source, length, features) for source, length in zip(features.shape[2:], size))
    lengths = _squared_norms(features, down, along).clamp(min=NORM_FLOOR[norm]).sqrt() * temperature
    strips = []
    for top in range(0, size[0], rows) if rows else (0,):
        part = tuple(tap[top : top + rows] for tap in down) if rows else down
        lower, upper, weight = part[0], part[1], part[2][:, None]
        strip = products.index_select(2, lower) * (1 - weight) + products.index_select(2, upper) * weight
        similar = resize(strip, (strip.shape[2], size[1]))
        best = similar.unflatten(1, prototypes.shape[:2]).amax(2)
        strips.append(best / (lengths[:, :, top : top + rows] if rows else lengths))
    return strips[0] if len(strips) == 1 else torch.cat(strips, 2)


Taps = tuple[Tensor, Tensor, Tensor]
"""Lower and upper source index of every output position and the upper one's weight."""


def _taps(source: int, length: int, like: Tensor) -> Taps:
    """``common.images.resize.taps`` with operators, so that they can be exported for sizes that are not known yet."""
    scale = (source - 1) / torch.sym_max(length - 1, 1)
    position = torch.arange(length, dtype=torch.float64, device=like.device) * scale
    lower = position.long()
    # Minimum and no clamp: ONNX Runtime may compute positions on the CPU, where check_provider knows what is harmless.
    return lower, torch.minimum(lower + 1, torch.full_like(lower, source - 1)), (position - lower).to(like.dtype)


def _squared_norms(features: Tensor, down: Taps, along: Taps) -> Tensor:
    """Return ``[B,1,H,W]`` squared norms of the resized features, from inner products of neighbours at their own size.

    With g_i(x) = (1-a) f[i,left] + a f[i,right] on row i, the resized feature is (1-d) g_top + d g_bottom.
    """
    squares = _inner(features, features)
    beside = _inner(features[:, :, :, :-1], features[:, :, :, 1:])
    under = _inner(features[:, :, :-1], features[:, :, 1:])
    crossing = _inner(features[:, :, :-1, :-1], features[:, :, 1:, 1:])
    crossing = crossing + _inner(features[:, :, :-1, 1:], features[:, :, 1:, :-1])
    left, right, a = along
    row = (1 - a) * (1 - a) * squares.index_select(3, left) + a * a * squares.index_select(3, right)
    row = row + 2 * a * (1 - a) * _extended(beside, squares).index_select(3, left)
    pair = (1 - a) * (1 - a) * under.index_select(3, left) + a * a * under.index_select(3, right)
    pair = _extended(pair + a * (1 - a) * _extended(crossing, under).index_select(3, left), row)
    top, bottom, d = down
    d = d[:, None]
    ends = (1 - d) * (1 - d) * row.index_select(2, top) + d * d * row.index_select(2, bottom)
    return ends + 2 * d * (1 - d) * pair.index_select(2, top)


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """Inner products over the channels, some channels at a time: the products of all need as much memory as the features."""
    pairs = zip(first.split(CHANNELS_AT_ONCE, 1), second.split(CHANNELS_AT_ONCE, 1))
    return sum((a * b).sum(1, keepdim=True) for a, b in pairs)


def _extended(maps: Tensor, like: Tensor) -> Tensor:
    """Append a row or column of zeros where ``like`` has one more: a neighbour beyond the border has weight 0."""
    return F.pad(maps, (0, like.shape[3] - maps.shape[3], 0, like.shape[2] - maps.shape[2]))
