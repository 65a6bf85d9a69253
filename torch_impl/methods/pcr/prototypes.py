"""PCR's prototype predictor and the upkeep of prototypes; the MindSpore file of the same name mirrors this one.

    s[n,k,m] = <f_n/|f_n|, P[k,m]/|P[k,m]|>,   logit[n,k] = max_m s[n,k,m] / T

Features are resized to the image before they are normalised. In training that is done at the selected pixels only; for
whole maps <f,P> is resized instead of f, which is the same sum in another order, and |f| comes from the inner products of
neighbouring positions: no resized map of all channels is ever made. Source: ``docs/methods/pcr.md``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.arrays import IGNORE, Size
from common.images.resize import neighbours


def pixel_features(features: Tensor, pixels: np.ndarray, size: Size) -> Tensor:
    """Return rows ``[B*n,C]`` of ``features`` ``[B,C,h,w]`` resized to ``size``, at flat ``pixels`` ``[n]`` of every image."""
    positions, weights = (
        torch.from_numpy(part).to(features.device) for part in neighbours(pixels, size, features.shape[2:])
    )
    corners = features.flatten(2).index_select(2, positions.flatten()).unflatten(2, positions.shape)
    rows = (corners * weights.to(features.dtype)).sum(2)
    return rows.transpose(1, 2).flatten(0, 1)


def pixel_labels(labels: Tensor, pixels: np.ndarray) -> Tensor:
    """Return the labels ``[B*n]`` of ``[B,H,W]`` at the same pixels, in the same order."""
    return labels.flatten(1)[:, torch.from_numpy(pixels).to(labels.device)].flatten()


def prototype_sums(features: Tensor, labels: Tensor, match: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return what each prototype's pixels sum up to, ``[K,M,C]``, and how many there are, int64 ``[K,M]``.

    Row n of ``features`` ``[N,C]`` belongs to prototype ``match[n, labels[n]]`` of its label; 255 counts nowhere. ``shape`` is
    (K, M). Sums and counts of several processes add up.
    """
    counted = labels != IGNORE
    features, labels = features.detach()[counted], labels[counted].long()
    index = labels * shape[1] + match[counted].gather(1, labels.unsqueeze(1)).squeeze(1)
    sums = features.new_zeros((shape[0] * shape[1], features.shape[1])).index_add_(0, index, features)
    return sums.view(*shape, -1), torch.bincount(index, minlength=shape[0] * shape[1]).view(shape)


def updated_prototypes(prototypes: Tensor, sums: Tensor, counts: Tensor, momentum: float) -> Tensor:
    """Return momentum * P + (1 - momentum) * sums / counts where there are counts, else P, ``[K,M,C]``."""
    means = sums / counts.clamp(min=1).unsqueeze(2)
    return torch.where(counts.unsqueeze(2) > 0, momentum * prototypes + (1 - momentum) * means, prototypes)
