"""What two networks trained side by side teach each other (CPCL, CPS); the PyTorch file of the same name mirrors this one.

    p_k = arg max_c t_k,  q_k = max_c softmax_c(t_k),  t_k = logits of network k on the mixed image, k = 1, 2
    where p1 = p2:  intersection p1,  union p1,  weight (q1 + q2) / 2
    else:           intersection 255, union p1 with weight q1 if class p1 has the higher disagreement score, else p2 with q2
    L_inter = mean of weight * CE(z1, intersection),  L_union = mean of weight * CE(z2, union)  over all pixels

Source: ``specs/cpcl.md`` sections 3 and 4; the cheap order of work follows ``specs/cost.md``: teacher logits are resized, mixed
and reduced image by image, labels are 8-bit, classes are compared by tables over pairs of labels. No gradient flows here, so
everything but the losses is NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mindspore import Tensor

from common.arrays import IGNORE, Size
from common.methods.cpcl.cpcl import CPCLSettings, Disagreement, Variant, disagreement
from mindspore_impl.losses import weighted_cross_entropy
from mindspore_impl.resize import resize

ROWS = 16
"""Image rows that are reduced at once: what their logits need stays in the processor's cache."""


@dataclass
class Prediction:
    """What one network says of mixed images: classes uint8 ``[B,H,W]``, confidences ``[B,H,W]`` (``legacy_2022``: ``[1,1,1]``)."""

    label: np.ndarray
    confidence: np.ndarray


@dataclass
class Targets:
    """What the networks learn: labels uint8 ``[B,H,W]`` (255 = nothing) and weights ``[B,H,W]``."""

    intersection: np.ndarray
    intersection_weight: np.ndarray
    union: np.ndarray
    union_weight: np.ndarray
    disagreement: Disagreement


def mixed_prediction(
    first: Tensor, second: Tensor, masks: np.ndarray, size: Size, variant: Variant = "head"
) -> Prediction:
    """Return a network's prediction where ``masks`` bool ``[B,H,W]`` takes the image of ``second``, elsewhere of ``first``.

    Both logits ``[B,K,h,w]`` without gradient; each image is resized to ``size`` before it is mixed.
    """
    parts = []
    for index, mask in enumerate(masks):
        kept, taken = (resize(logits[index : index + 1], size).asnumpy()[0] for logits in (first, second))
        parts.append(_reduce(kept, taken, mask, variant))
    labels, confidences = (np.stack(part) for part in zip(*parts))
    return Prediction(labels, confidences if variant == "head" else confidences.max().reshape(1, 1, 1))


def _reduce(kept: np.ndarray, taken: np.ndarray, mask: np.ndarray, variant: Variant) -> tuple[np.ndarray, np.ndarray]:
    """Return class ids uint8 ``[H,W]`` and confidences of logits ``[K,H,W]`` mixed by ``mask``; ``legacy_2022``: one confidence.

    The largest soft maximum is 1 over the sum of exponentials of differences to the largest logit. The program of 2022 took
    the soft maximum along the rows of the image instead of along the classes.
    """
    if variant == "legacy_2022":
        logits = np.where(mask, taken, kept)
        along_row = np.exp(logits - logits.max(2, keepdims=True)).sum(2)
        return logits.argmax(0).astype(np.uint8), 1 / along_row.min()
    labels = np.empty(mask.shape, np.uint8)
    confidences = np.empty(mask.shape, np.float32)
    for top in range(0, len(mask), ROWS):
        rows = slice(top, top + ROWS)
        logits = np.where(mask[rows], taken[:, rows], kept[:, rows])
        labels[rows] = logits.argmax(0)
        confidences[rows] = np.exp(logits - logits.max(0)).sum(0)
    return labels, np.reciprocal(confidences, out=confidences)


def class_ids(logits: Tensor, size: Size) -> np.ndarray:
    """Return uint8 ``[B,H,W]`` class ids at ``size`` of logits ``[B,K,h,w]``, image by image."""
    parts = [resize(logits[index : index + 1], size).asnumpy()[0] for index in range(len(logits))]
    return np.stack([part.argmax(0).astype(np.uint8) for part in parts])


def joint_counts(first: np.ndarray, second: np.ndarray, classes: int) -> np.ndarray:
    """Return int64 ``[K,K]``: pixels whose label is a in ``first`` (row) and b in ``second``, both uint8 ``[B,H,W]``."""
    size = classes * classes
    counts = sum(np.bincount(_pairs(a, b, classes).ravel(), minlength=size) for a, b in zip(first, second))
    return counts.reshape(classes, classes)


def _pairs(first: np.ndarray, second: np.ndarray, classes: int) -> np.ndarray:
    """Return a * classes + b of two label maps: the place of their pair in a table ``[K,K]``."""
    return first.astype(np.int32) * classes + second


def targets(first: Prediction, second: Prediction, classes: int, variant: Variant = "head") -> Targets:
    """Return what the networks learn from both predictions (sections 4.2 and 4.3)."""
    found = disagreement(joint_counts(first.label, second.label, classes), variant)
    wins = found.first_wins.ravel()
    parts = []
    for p1, p2, q1, q2 in zip(first.label, second.label, *_by_image(first, second)):
        take_first = wins[_pairs(p1, p2, classes)]
        agree, mean = p1 == p2, (q1 + q2) / 2
        weight = np.where(agree, mean, np.where(take_first, q1, q2))
        parts.append((np.where(agree, p1, np.uint8(IGNORE)), mean, np.where(take_first, p1, p2), weight))
    return Targets(*(np.stack(part) for part in zip(*parts)), found)


def _by_image(*predictions: Prediction) -> list[np.ndarray]:
    """Return the confidences as maps, for one confidence the same everywhere."""
    return [np.broadcast_to(given.confidence, given.label.shape) for given in predictions]


def intersection_loss(logits: Tensor, given: Targets, settings: CPCLSettings) -> Tensor:
    """Return L_inter without its weight in the sum; ``logits`` ``[B,K,H,W]`` of branch 1 (sections 4.4 and 4.5)."""
    divisor = given.intersection.size
    if _means_over_kept(settings):
        divisor = max(int((given.intersection != IGNORE).sum()), 1)
    return weighted_cross_entropy(logits, given.intersection, given.intersection_weight, divisor)


def union_loss(logits: Tensor, given: Targets, settings: CPCLSettings) -> Tensor:
    """Return L_union without its weight in the sum; ``logits`` ``[B,K,H,W]`` of branch 2 (sections 4.4 and 4.5)."""
    weights = given.union_weight.mean() if _means_over_kept(settings) else given.union_weight
    return weighted_cross_entropy(logits, given.union, weights, given.union.size)


def _means_over_kept(settings: CPCLSettings) -> bool:
    return settings.variant == "legacy_2022" and settings.legacy_divisor == "kept"
