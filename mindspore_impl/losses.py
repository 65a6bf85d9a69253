"""Pixel losses that several methods share; the PyTorch file of the same name mirrors this one.

Labels are uint8 ``[B,H,W]`` with 255 = ignore. A loss over no pixel is 0 with zero gradient, never NaN.

What carries no gradient is NumPy here; arguments may be tensors or arrays. The per-pixel losses compute value and gradient
in NumPy too (20 times faster than MindSpore's operators on a CPU) and therefore belong outside of compiled graphs.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor

from common.arrays import IGNORE
from common.config.schema import CriterionConfig
from common.images.resize import interpolation_matrix
from mindspore_impl.known_gradient import KnownLoss


def cross_entropy(logits: Tensor, labels: np.ndarray, class_weights: Sequence[float] = ()) -> Tensor:
    """Return the mean cross entropy over pixels with a label; ``logits`` ``[B,K,H,W]``.

    With ``class_weights`` (one per class) it is the mean weighted by the weight of each pixel's label.
    """
    valid, true_class = _true_classes(labels)
    if not class_weights:
        return _weighted_sum(logits, valid, true_class, np.float32(1 / max(int(valid.sum()), 1)))
    weights = np.float32(class_weights)[true_class]
    mass = weights.sum(dtype=np.float64, where=valid)
    return _weighted_sum(logits, valid, true_class, weights * np.float32(1 / (mass or 1)))


def weighted_cross_entropy(logits: Tensor, labels: np.ndarray, weights: np.ndarray, divisor: float) -> Tensor:
    """Return the sum over pixels with a label of weight times cross entropy, over ``divisor``.

    ``logits`` ``[B,K,H,W]``, ``weights`` ``[B,H,W]`` or of a shape that fits it.
    """
    weights = np.asarray(weights, np.float32) / np.float32(divisor)
    return _weighted_sum(logits, *_true_classes(labels), weights if weights.ndim < 3 else weights[:, None])


def resized_cross_entropy(logits: Tensor, labels: np.ndarray, rows: int = 16) -> Tensor:
    """Return ``cross_entropy(resize(logits, (H, W)), labels)`` without ever holding logits of that size.

    Value and gradient are computed together, ``rows`` rows of the labels at a time; only the gradient with respect to
    ``logits`` ``[B,K,h,w]`` is kept for the backward pass.
    """
    small, labels = np.asarray(logits), np.asarray(labels)
    down, across = (interpolation_matrix(new, old) for new, old in zip(labels.shape[1:], small.shape[2:]))
    total, gradient = 0.0, np.zeros_like(small)
    for first in range(0, len(down), rows):
        block, target = down[first : first + rows], labels[:, first : first + rows]
        used = np.flatnonzero(block.any(0))
        used = slice(used[0], used[-1] + 1)
        valid, true_class = _true_classes(target)
        shifted, exponentials, sums = _exponentials((block[:, used] @ small[:, :, used]) @ across.T)
        losses = np.log(sums) - np.take_along_axis(shifted, true_class, 1)
        total += losses.sum(dtype=np.float64, where=valid)
        error = exponentials
        error /= sums
        np.put_along_axis(error, true_class, np.take_along_axis(error, true_class, 1) - 1, 1)
        gradient[:, :, used] += block[:, used].T @ ((error * valid) @ across)
    count = max(int((labels != IGNORE).sum()), 1)
    return KnownLoss(total / count, gradient / np.float32(count))(logits)


def ohem_labels(logits: Tensor, labels: np.ndarray, thresh: float, min_kept: int) -> np.ndarray:
    """Return ``labels`` with the easy pixels set to 255 (online hard example mining, ``specs/u2pl.md`` section 7).

    A pixel stays if the probability of its true class is at most max(``thresh``, the ``min_kept``-th smallest one); all stay
    if fewer than ``min_kept`` pixels have a label.
    """
    labels = np.asarray(labels)
    valid = labels != IGNORE
    if min_kept == 0 or min_kept > int(valid.sum()):
        return labels
    probability = true_class_probability(logits, labels)
    kth = np.partition(probability[valid], min_kept - 1)[min_kept - 1]
    return np.where(probability <= max(kth, np.float32(thresh)), labels, labels.dtype.type(IGNORE))


def supervised_loss(
    criterion: CriterionConfig, logits: Tensor, labels: np.ndarray, aux: Tensor | None = None
) -> Tensor:
    """Return cross entropy or OHEM of ``logits`` plus ``aux_weight`` times that of ``aux`` (each mined on its own)."""
    total = ms.Tensor(0.0, ms.float32)
    for weight, scores in ((1.0, logits), (criterion.aux_weight, aux)):
        if scores is None:
            continue
        kept = labels
        if criterion.type == "ohem":
            min_kept = criterion.min_kept_per_image * len(labels) or criterion.min_kept
            kept = ohem_labels(scores, labels, criterion.thresh, min_kept)
        total = total + weight * cross_entropy(scores, kept, criterion.class_weights)
    return total


def reverse_cross_entropy(logits: Tensor, labels: np.ndarray) -> Tensor:
    """Return the mean over labelled pixels of -sum_k p_k log(max(onehot_k, 1e-4)) (``specs/u2pl.md`` section 8.3)."""
    valid, true_class = _true_classes(labels)
    _, exponentials, total = _exponentials(logits)
    probabilities = exponentials / total
    probability = np.take_along_axis(probabilities, true_class, 1)
    scale = -np.log(np.float32(1e-4)) / max(int(valid.sum()), 1)
    gradient = probabilities * probability
    np.put_along_axis(gradient, true_class, np.take_along_axis(gradient, true_class, 1) - probability, 1)
    gradient *= scale
    np.copyto(gradient, 0, where=~valid)
    return KnownLoss(scale * (1 - probability).sum(dtype=np.float64, where=valid), gradient)(logits)


def true_class_probability(logits: Tensor, labels: np.ndarray) -> np.ndarray:
    """Return the probability of each pixel's label, ``[B,H,W]``; of class 0 where there is none."""
    _, exponentials, total = _exponentials(logits)
    return (np.take_along_axis(exponentials, _true_classes(labels)[1], 1) / total)[:, 0]


def _weighted_sum(logits: Tensor, valid: np.ndarray, true_class: np.ndarray, weights: np.ndarray) -> Tensor:
    """Return the sum of ``weights`` (one, or ``[B,1,H,W]``) times cross entropy over the ``valid`` pixels ``[B,1,H,W]``."""
    shifted, exponentials, total = _exponentials(logits)
    losses = np.log(total) - np.take_along_axis(shifted, true_class, 1)
    value = (losses * weights).sum(dtype=np.float64, where=valid)
    gradient = exponentials
    gradient /= total
    np.put_along_axis(gradient, true_class, np.take_along_axis(gradient, true_class, 1) - 1, 1)
    gradient *= weights
    np.copyto(gradient, 0, where=~valid)
    return KnownLoss(value, gradient)(logits)


def _true_classes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which pixels have a label, and their classes (0 where there is none), both ``[B,1,H,W]``."""
    labels = np.asarray(labels)[:, None]
    valid = labels != IGNORE
    return valid, np.where(valid, labels, 0).astype(np.int64)


def _exponentials(logits: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits minus their largest, the exponentials of that, and the sum of these over the classes."""
    logits = np.asarray(logits)
    shifted = logits - logits.max(1, keepdims=True)
    exponentials = np.exp(shifted)
    return shifted, exponentials, exponentials.sum(1, keepdims=True)
