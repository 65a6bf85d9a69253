"""PCR's prototype predictor and the upkeep of prototypes; the PyTorch file of the same name mirrors this one.

    s[n,k,m] = <f_n/|f_n|, P[k,m]/|P[k,m]|>,   logit[n,k] = max_m s[n,k,m] / T

Features are resized to the image before they are normalised. In training that is done at the selected pixels only; for
whole maps <f,P> is resized instead of f, which is the same sum in another order, and |f| comes from the inner products of
neighbouring positions: no resized map of all channels is ever made. Source: ``docs/methods/pcr.md``.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from common.arrays import Size
from common.images.resize import neighbours
from mindspore_impl.losses import one_hot


def pixel_features(features: Tensor, pixels: np.ndarray, size: Size) -> Tensor:
    """Return rows ``[B*n,C]`` of ``features`` ``[B,C,h,w]`` resized to ``size``, at flat ``pixels`` ``[n]`` of every image."""
    positions, weights = neighbours(pixels, size, features.shape[2:])
    batch, width, height, columns = features.shape
    first = np.arange(batch)[:, None] * (height * columns)
    # Whole rows of channels are gathered fast, and so are their gradients. One compiled graph would take several times the memory.
    rows, total = features.transpose(0, 2, 3, 1).reshape(-1, width), 0
    for position, weight in zip(positions, weights):
        place = ms.Tensor((position + first).reshape(-1).astype(np.int32))
        total = total + ops.gather(rows, place, 0) * ms.Tensor(np.tile(weight, batch)[:, None])
    return total


def pixel_labels(labels: Tensor, pixels: np.ndarray) -> Tensor:
    """Return the labels ``[B*n]`` of ``[B,H,W]`` at the same pixels, in the same order."""
    return ops.gather(labels.reshape(len(labels), -1), ms.Tensor(pixels.astype(np.int32)), 1).reshape(-1)


@ms.jit
def prototype_sums(features: Tensor, labels: Tensor, match: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return what each prototype's pixels sum up to, ``[K,M,C]``, and how many there are, int64 ``[K,M]``.

    Row n of ``features`` ``[N,C]`` belongs to prototype ``match[n, labels[n]]`` of its label; 255 counts nowhere. ``shape`` is
    (K, M). Sums and counts of several processes add up.
    """
    classes, number = shape
    won = match.expand_dims(2) == ops.arange(number).astype(match.dtype).reshape(1, 1, number)
    members = ops.logical_and(one_hot(labels, classes).expand_dims(2), won)
    members = members.astype(features.dtype).reshape(-1, classes * number)
    sums = ops.matmul(members.T, ops.stop_gradient(features))
    return sums.reshape(classes, number, -1), members.sum(0).astype(ms.int64).reshape(classes, number)


@ms.jit
def updated_prototypes(prototypes: Tensor, sums: Tensor, counts: Tensor, momentum: float) -> Tensor:
    """Return momentum * P + (1 - momentum) * sums / counts where there are counts, else P, ``[K,M,C]``."""
    counts = counts.astype(sums.dtype).expand_dims(2)
    means = sums / ops.maximum(counts, ops.ones_like(counts))
    return ops.where(counts > 0, momentum * prototypes + (1 - momentum) * means, prototypes)
