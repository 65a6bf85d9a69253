"""NumPy forms of shared functions for the families of methods that do not compute on the device yet; goes with the last of them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from common.arrays import IGNORE, Size
from common.images.resize import interpolation_matrix
from common.methods.percentile import interpolate_percentile, percentile_position

FAMILIES = ("pcr",)
"""Those whose methods still compute in NumPy."""


def on_host(module: str) -> bool:
    """Whether ``module`` belongs to such a family."""
    parts = module.split(".")
    return any(family in parts for family in FAMILIES)


def or_host(native: Callable) -> Callable:
    """Return ``native``, in whose place the function of the same name here serves calls from those families or with arrays."""

    @functools.wraps(native)
    def chosen(*arguments, **named):
        host = on_host(sys._getframe(1).f_globals["__name__"])
        host = host or any(isinstance(x, np.ndarray) for x in (*arguments, *named.values()))
        return (globals()[native.__name__] if host else native)(*arguments, **named)

    return chosen


class KnownLoss(nn.Cell):
    """A loss whose value and gradient ``[B,K,H,W]`` with respect to the logits are known; one instance per loss."""

    def __init__(self, value: float, gradient: np.ndarray) -> None:
        super().__init__()
        self.value, self.gradient = value, gradient

    def construct(self, logits: Tensor) -> Tensor:
        """Return the value."""
        return ms.Tensor(self.value, ms.float32)

    def bprop(self, logits: Tensor, out: Tensor, upstream: Tensor) -> tuple[Tensor]:
        """Return the gradient times the one that arrives."""
        return (ms.from_numpy(self.gradient * upstream.asnumpy()),)


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


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return ``[B,H,W]`` natural entropies of ``[B,K,H,W]`` probabilities (1e-10 inside the logarithm)."""
    probabilities = np.asarray(probabilities)
    return -(probabilities * np.log(probabilities + np.float32(1e-10))).sum(1)


def percentile(values: np.ndarray, percent: float, among: np.ndarray | None = None) -> float:
    """Return NumPy's linear percentile of a non-empty float32 vector, rounded to float32."""
    values = np.asarray(values).ravel() if among is None else np.asarray(values)[among]
    lower, fraction = percentile_position(values.size, percent)
    upper = min(lower + 1, values.size - 1)
    ordered = np.partition(values, (lower, upper))
    return float(interpolate_percentile(ordered[lower], ordered[upper], fraction))


def confident_labels(pseudo_label: np.ndarray, confidence: np.ndarray, threshold: float) -> np.ndarray:
    """Return ``pseudo_label`` ``[B,H,W]`` with pixels whose ``confidence`` is below ``threshold`` set to 255."""
    return np.where(confidence >= np.float32(threshold), pseudo_label, pseudo_label.dtype.type(IGNORE))


def drop_unreliable(
    uncertainty: np.ndarray, pseudo_label: np.ndarray, percent: float
) -> tuple[np.ndarray, float | None]:
    """Return ``pseudo_label`` with pixels at or above the ``percent`` percentile of entropy set to 255, and that threshold.

    ``uncertainty`` and ``pseudo_label`` ``[B,H,W]``; the percentile runs over pixels with a label (None if there is none).
    """
    valid = pseudo_label != IGNORE
    if not valid.any():
        return pseudo_label, None
    threshold = sys.modules["mindspore_impl.pseudo_labels"].percentile(np.asarray(uncertainty)[valid], percent)
    uncertainty = np.asarray(uncertainty)
    unreliable = uncertainty >= np.float32(threshold)
    return np.where(unreliable, pseudo_label.dtype.type(IGNORE), pseudo_label), threshold


def kept_cross_entropy(logits: Tensor, target: np.ndarray, divisor: float) -> Tensor:
    """Return the cross entropy summed over the pixels that have a target (not 255), over ``divisor``.

    ``logits`` ``[B,K,...]``, ``target`` ``[B,...]``. Without a target it is 0 with zero gradient.
    """
    return weighted_cross_entropy(logits, target, np.float32(1), divisor)


def unsupervised_loss(logits: Tensor, pseudo_label: np.ndarray) -> Tensor:
    """Return (all pixels / kept pixels) * mean cross entropy over the kept pixels (``specs/u2pl.md`` section 7)."""
    kept = max(int((pseudo_label != IGNORE).sum()), 1)
    return kept_cross_entropy(logits, pseudo_label, kept**2 / pseudo_label.size)


def certainty(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest probability, float32, and its class, uint8, of every pixel ``[B,H,W]``; ``logits`` ``[B,K,H,W]``."""
    logits = np.asarray(logits)
    confidence = 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1)
    return confidence, logits.argmax(1).astype(np.uint8)


def certain_loss(
    logits: Tensor, label: np.ndarray, confidence: np.ndarray, ignore: np.ndarray, threshold: float
) -> Tensor:
    """Return the cross entropy over the certain pixels that are no padding, divided by the number of all that are none.

    ``logits`` ``[B,K,H,W]``; ``label``, ``confidence`` and ``ignore`` (255 = padding) ``[B,H,W]``. 0 where all is padding
    (``specs/uccl.md`` section 4.3).
    """
    shown = ignore != IGNORE
    target = np.where(shown & (confidence >= np.float32(threshold)), label, label.dtype.type(IGNORE))
    return kept_cross_entropy(logits, target, max(int(shown.sum()), 1))


def certain_share(confidence: np.ndarray, ignore: np.ndarray, threshold: float) -> float:
    """Return the share of certain pixels among those that are no padding; arguments as in :func:`certain_loss`."""
    shown = ignore != IGNORE
    return float((shown & (confidence >= np.float32(threshold))).sum() / max(shown.sum(), 1))


def mix(values: np.ndarray, masks: np.ndarray, replacement: str | float) -> np.ndarray:
    """Return ``values`` ``[B,...,H,W]`` where ``masks`` ``[B,H,W]`` is true, elsewhere the partner's or a constant."""
    values = np.asarray(values)
    keep = masks if values.ndim == 3 else masks[:, None]
    other = (
        values[sys.modules["mindspore_impl.mixing"].partners(len(values))]
        if replacement == "partner"
        else values.dtype.type(replacement)
    )
    return np.where(keep, values, other)


def cutmix(values: np.ndarray, others: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return ``others`` where ``boxes`` ``[B,H,W]`` is true, elsewhere ``values``; both ``[B,...,H,W]``."""
    return np.where(boxes if values.ndim == 3 else boxes[:, None], others, values)


def nearest(x: np.ndarray, size: Size) -> np.ndarray:
    """Reduce ``[B,H,W]`` to ``size`` by picking source index floor(i * in / out) on each axis."""
    x = np.asarray(x)
    rows, columns = (np.floor(np.arange(o) * (i / o)).astype(np.int64) for i, o in zip(x.shape[1:], size))
    return x[:, rows][:, :, columns]
