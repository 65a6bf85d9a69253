"""Pixel losses that several methods share; the MindSpore file of the same name mirrors this one.

Labels are uint8 ``[B,H,W]`` with 255 = ignore. A loss over no pixel is 0 with zero gradient, never NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.arrays import IGNORE
from common.config.schema import CriterionConfig
from common.images.resize import interpolation_matrix
from torch_impl.known_gradient import known

STRIP_ROWS = 16
"""Rows of the labels that :func:`resized_cross_entropy` looks at together; few, so that they stay in the processor's cache."""


def cross_entropy(logits: Tensor, labels: Tensor, class_weights: Sequence[float] = ()) -> Tensor:
    """Return the mean cross entropy over pixels with a label; ``logits`` ``[B,K,H,W]``.

    With ``class_weights`` (one per class) it is the mean weighted by the weight of each pixel's label.
    """
    valid = labels != IGNORE
    if not class_weights:
        total = F.cross_entropy(logits, labels.long(), ignore_index=IGNORE, reduction="sum")
        return total / valid.sum().clamp(min=1)
    weights = torch.tensor(class_weights, dtype=logits.dtype, device=logits.device)
    total = F.cross_entropy(logits, labels.long(), weights, ignore_index=IGNORE, reduction="sum")
    mass = weights[labels[valid].long()].sum()
    return total / torch.where(mass > 0, mass, torch.ones_like(mass))


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, divisor: float) -> Tensor:
    """Return the sum over pixels with a label of weight times cross entropy, over ``divisor``.

    ``logits`` ``[B,K,H,W]``, ``weights`` ``[B,H,W]`` or of a shape that fits it.
    """
    return (F.cross_entropy(logits, labels.long(), ignore_index=IGNORE, reduction="none") * weights).sum() / divisor


def resized_cross_entropy(logits: Tensor, labels: Tensor, rows: int = STRIP_ROWS) -> Tensor:
    """Return ``cross_entropy(resize(logits, (H, W)), labels)`` without ever holding logits of that size.

    Value and gradient are computed together, ``rows`` rows of the labels at a time; only the gradient with respect to
    ``logits`` ``[B,K,h,w]`` is kept for the backward pass.
    """
    down, across = (interpolation_matrix(new, old) for new, old in zip(labels.shape[1:], logits.shape[2:]))
    with torch.no_grad():
        total, gradient = logits.new_zeros(()), torch.zeros_like(logits)
        down_there, across = (torch.from_numpy(matrix).to(logits, non_blocking=True) for matrix in (down, across))
        for first in range(0, len(down), rows):
            target = labels[:, first : first + rows].long()
            used = np.flatnonzero(down[first : first + rows].any(0))
            used = slice(used[0], used[-1] + 1)
            block = down_there[first : first + rows, used].contiguous()
            scores = (block @ logits[:, :, used]) @ across.T
            log_probability = F.log_softmax(scores, 1)
            total += F.nll_loss(log_probability, target, ignore_index=IGNORE, reduction="sum")
            valid = (target != IGNORE).unsqueeze(1)
            error = log_probability.exp_()
            error.scatter_add_(1, target.unsqueeze(1) * valid, -valid.to(error.dtype))
            gradient[:, :, used] += block.T @ ((error * valid) @ across)
        count = (labels != IGNORE).sum().clamp(min=1)
    return known(logits, total / count, gradient / count)


def ohem_labels(logits: Tensor, labels: Tensor, thresh: float, min_kept: int) -> Tensor:
    """Return ``labels`` with the easy pixels set to 255 (online hard example mining).

    A pixel stays if the probability of its true class is at most max(``thresh``, the ``min_kept``-th smallest one); all stay
    if fewer than ``min_kept`` pixels have a label.
    """
    if min_kept == 0 or min_kept > labels.numel():
        return labels
    with torch.no_grad():
        # Pixels without a label come last: with too few labels the cut is infinite. So nothing is looked at on the host.
        probability = true_class_probability(logits, labels).masked_fill(labels == IGNORE, torch.inf)
        cut = probability.flatten().kthvalue(min_kept).values.clamp(min=thresh)
    return labels.masked_fill(probability > cut, IGNORE)


def supervised_loss(criterion: CriterionConfig, logits: Tensor, labels: Tensor, aux: Tensor | None = None) -> Tensor:
    """Return cross entropy or OHEM of ``logits`` plus ``aux_weight`` times that of ``aux`` (each mined on its own)."""
    total = torch.zeros((), device=logits.device)
    for weight, scores in ((1.0, logits), (criterion.aux_weight, aux)):
        if scores is None:
            continue
        kept = labels
        if criterion.type == "ohem":
            min_kept = criterion.min_kept_per_image * len(labels) or criterion.min_kept
            kept = ohem_labels(scores, labels, criterion.thresh, min_kept)
        total = total + weight * cross_entropy(scores, kept, criterion.class_weights)
    return total


def reverse_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over labelled pixels of -sum_k p_k log(max(onehot_k, 1e-4)) (the authors' ``compute_rce_loss``)."""
    valid = labels != IGNORE
    probability = true_class_probability(logits, labels)
    scale = -torch.log(torch.tensor(1e-4, device=logits.device))
    return ((1 - probability) * scale * valid).sum() / valid.sum().clamp(min=1)


def true_class_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the probability of each pixel's label, ``[B,H,W]``; of class 0 where there is none."""
    true_class = labels.where(labels != IGNORE, torch.zeros_like(labels)).long().unsqueeze(1)
    return F.softmax(logits, 1).gather(1, true_class).squeeze(1)
