"""Pixel losses that several methods share; the PyTorch file of the same name mirrors this one.

Labels are uint8 ``[B,H,W]`` with 255 = ignore. A loss over no pixel is 0 with zero gradient, never NaN.

What runs over maps of all classes is compiled, once per shape, and differentiated from outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, ops

from common.arrays import IGNORE
from common.config.schema import CriterionConfig
from common.images.resize import interpolation_matrix
from mindspore_impl.known_gradient import known

STRIP_ROWS = 129
"""Rows of the labels that :func:`resized_cross_entropy` looks at together; many, because every strip costs some calls."""


@ms.jit
def pixel_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of every pixel ``[B,...]``, 0 where there is no label; ``logits`` ``[B,K,...]``, ``labels`` ``[B,...]``."""
    valid = (labels != IGNORE).expand_dims(1)
    shifted = logits - ops.stop_gradient(ops.amax(logits, 1, True))
    shifted = ops.where(valid, shifted, ops.zeros_like(shifted))
    true_class = (shifted * one_hot(labels, logits.shape[1]).astype(logits.dtype)).sum(1)
    return (ops.log(ops.exp(shifted).sum(1)) - true_class) * valid.squeeze(1).astype(logits.dtype)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return bool ``[B,K,...]``: which pixels of ``labels`` ``[B,...]`` have which class; none where the label is 255."""
    index = ops.arange(classes).astype(ms.int32).reshape((1, classes) + (1,) * (labels.ndim - 1))
    return labels.astype(ms.int32).expand_dims(1) == index


def cross_entropy(logits: Tensor, labels: Tensor, class_weights: Sequence[float] = ()) -> Tensor:
    """Return the mean cross entropy over pixels with a label; ``logits`` ``[B,K,H,W]``.

    With ``class_weights`` (one per class) it is the mean weighted by the weight of each pixel's label.
    """
    losses, valid = pixel_losses(logits, labels), (labels != IGNORE).astype(ms.float32)
    if not class_weights:
        return losses.sum() / valid.sum().clamp(min=1)
    weights = ops.gather(ms.Tensor(class_weights, logits.dtype), labels.where(labels != IGNORE, 0).astype(ms.int32), 0)
    weights = weights * valid
    mass = weights.sum()
    return (losses * weights).sum() / ops.where(mass > 0, mass, ops.ones_like(mass))


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, divisor: float) -> Tensor:
    """Return the sum over pixels with a label of weight times cross entropy, over ``divisor``.

    ``logits`` ``[B,K,H,W]``, ``weights`` ``[B,H,W]`` or of a shape that fits it.
    """
    return (pixel_losses(logits, labels) * weights).sum() / divisor


def resized_cross_entropy(logits: Tensor, labels: Tensor, rows: int = STRIP_ROWS) -> Tensor:
    """Return ``cross_entropy(resize(logits, (H, W)), labels)`` without ever holding logits of that size.

    Value and gradient are computed together, ``rows`` rows of the labels at a time; only the gradient with respect to
    ``logits`` ``[B,K,h,w]`` is kept for the backward pass.
    """
    down, across = (ms.Tensor(interpolation_matrix(*sides)) for sides in zip(labels.shape[1:], logits.shape[2:]))
    fixed, total, gradient = ops.stop_gradient(logits), 0, 0
    for first in range(0, len(down), rows):
        strip = slice(first, first + rows)
        value, slope = _strip(fixed, labels[:, strip], down[strip], across)
        total, gradient = total + value, gradient + slope
    count = (labels != IGNORE).astype(ms.float32).sum().clamp(min=1)
    return known(logits, total / count, gradient / count)


@ms.jit
def _strip(logits: Tensor, labels: Tensor, down: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross entropy of some rows and its gradient ``[B,K,h,w]``."""
    scores = ops.matmul(ops.matmul(down, logits), across.T)
    shifted = scores - ops.amax(scores, 1, True)
    exponentials = ops.exp(shifted)
    sums = exponentials.sum(1, keepdims=True)
    valid = (labels != IGNORE).astype(scores.dtype).expand_dims(1)
    true_class = one_hot(labels, scores.shape[1]).astype(scores.dtype)
    losses = ops.log(sums) * valid - (shifted * true_class).sum(1, keepdims=True)
    error = exponentials / sums * valid - true_class
    return losses.sum(), ops.matmul(down.T, ops.matmul(error, across))


def ohem_labels(logits: Tensor, labels: Tensor, thresh: float, min_kept: int) -> Tensor:
    """Return ``labels`` with the easy pixels set to 255 (online hard example mining).

    A pixel stays if the probability of its true class is at most max(``thresh``, the ``min_kept``-th smallest one); all stay
    if fewer than ``min_kept`` pixels have a label.
    """
    if min_kept == 0 or min_kept > labels.size:
        return labels
    # Pixels without a label come last: with too few labels the cut is infinite. So nothing is looked at on the host.
    probability = ops.stop_gradient(true_class_probability(logits, labels)).masked_fill(labels == IGNORE, float("inf"))
    cut = ops.sort(probability.reshape(-1))[0][min_kept - 1].clamp(min=thresh)
    return labels.masked_fill(probability > cut, IGNORE)


def supervised_loss(criterion: CriterionConfig, logits: Tensor, labels: Tensor, aux: Tensor | None = None) -> Tensor:
    """Return cross entropy or OHEM of ``logits`` plus ``aux_weight`` times that of ``aux`` (each mined on its own)."""
    total = ops.zeros((), ms.float32)
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
    valid = (labels != IGNORE).astype(logits.dtype)
    probability = true_class_probability(logits, labels)
    scale = -ops.log(ms.Tensor(1e-4, logits.dtype))
    return ((1 - probability) * scale * valid).sum() / valid.sum().clamp(min=1)


def true_class_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the probability of each pixel's label, ``[B,H,W]``; of class 0 where there is none."""
    return _true_class_probability(logits, labels)


@ms.jit
def _true_class_probability(logits: Tensor, labels: Tensor) -> Tensor:
    true_class = ops.where(labels == IGNORE, ops.zeros_like(labels), labels)
    return (ops.softmax(logits, 1) * one_hot(true_class, logits.shape[1]).astype(logits.dtype)).sum(1)
