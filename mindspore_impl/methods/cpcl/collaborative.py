"""What two networks trained side by side teach each other (CPCL, CPS); the PyTorch file of the same name mirrors this one.

    p_k = arg max_c t_k,  q_k = max_c softmax_c(t_k),  t_k = logits of network k on the mixed image, k = 1, 2
    where p1 = p2:  intersection p1,  union p1,  weight (q1 + q2) / 2
    else:           intersection 255, union p1 with weight q1 if class p1 has the higher disagreement score, else p2 with q2
    L_inter = mean of weight * CE(z1, intersection),  L_union = mean of weight * CE(z2, union)  over all pixels

Source: the programs of CPCL (leofansq/CPCL) and CPS (charlesCXK/TorchSemiSeg). To be cheap, teacher logits are resized, mixed
and reduced image by image, labels are 8-bit, classes are compared by tables over pairs of labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from common.arrays import IGNORE, Size
from common.methods.cpcl.cpcl import CPCLSettings, Disagreement, Variant, disagreement
from mindspore_impl.losses import weighted_cross_entropy
from mindspore_impl.pseudo_labels import arg_max
from mindspore_impl.resize import resize


@dataclass
class Prediction:
    """What one network says of mixed images: classes uint8 ``[B,H,W]`` and their confidences ``[B,H,W]``.

    With ``legacy_2022`` one confidence serves all pixels: ``[1,1,1]``, of several groups ``[B,1,1]``.
    """

    label: Tensor
    confidence: Tensor


@dataclass
class Targets:
    """What the networks learn: labels uint8 ``[B,H,W]`` (255 = nothing) and weights ``[B,H,W]``."""

    intersection: Tensor
    intersection_weight: Tensor
    union: Tensor
    union_weight: Tensor
    disagreement: Disagreement


def mixed_prediction(
    first: Tensor, second: Tensor, masks: Tensor, size: Size, variant: Variant = "head", groups: int = 1
) -> Prediction:
    """Return a network's prediction where ``masks`` bool ``[B,H,W]`` takes the image of ``second``, elsewhere of ``first``.

    Both logits ``[B,K,h,w]`` without gradient; each image is resized to ``size`` before it is mixed. The one confidence of
    ``legacy_2022`` is that of a group's images.
    """
    parts = []
    for index in range(len(masks)):
        kept, taken = (resize(logits[index : index + 1], size)[0] for logits in (first, second))
        parts.append(_reduce(kept, taken, masks[index], variant))
    labels, confidences = (ops.stack(part) for part in zip(*parts))
    if variant == "head":
        return Prediction(labels, confidences)
    largest = ops.amax(confidences.reshape(groups, -1), 1).reshape(-1, 1, 1)
    return Prediction(labels, largest if groups == 1 else ops.repeat_elements(largest, len(labels) // groups, 0))


@ms.jit
def _reduce(kept: Tensor, taken: Tensor, mask: Tensor, variant: str) -> tuple[Tensor, Tensor]:
    """Return class ids uint8 ``[H,W]`` and confidences of logits ``[K,H,W]`` mixed by ``mask``; ``legacy_2022``: one confidence.

    The largest soft maximum is 1 over the sum of exponentials of differences to the largest logit. The program of 2022 took
    the soft maximum along the rows of the image instead of along the classes.
    """
    logits = ops.where(mask, taken, kept)
    if variant == "legacy_2022":
        along_row = ops.exp(logits - ops.amax(logits, 2, True)).sum(2)
        return logits.argmax(0).astype(ms.uint8), 1 / along_row.min()
    best, label = ops.max(logits, 0)
    return label.astype(ms.uint8), 1 / ops.exp(logits - best).sum(0)


def class_ids(logits: Tensor, size: Size) -> Tensor:
    """Return uint8 ``[B,H,W]`` class ids at ``size`` of logits ``[B,K,h,w]``, image by image."""
    return ops.stack([arg_max(resize(part, size)[0], 0).astype(ms.uint8) for part in ops.split(logits, 1)])


def joint_counts(first: Tensor, second: Tensor, classes: int) -> Tensor:
    """Return int32 ``[K,K]``: pixels whose label is a in ``first`` (row) and b in ``second``, both uint8 ``[B,H,W]``."""
    pairs = _pairs(first, second, classes).reshape(-1)
    return ops.unsorted_segment_sum(ops.ones_like(pairs), pairs, classes * classes).reshape(classes, classes)


def _pairs(first: Tensor, second: Tensor, classes: int) -> Tensor:
    """Return a * classes + b of two label maps: the place of their pair in a table ``[K,K]``."""
    return first.astype(ms.int32) * classes + second


def targets(
    first: Prediction,
    second: Prediction,
    classes: int,
    variant: Variant = "head",
    counts: np.ndarray | None = None,
) -> Targets:
    """Return what the networks learn from both predictions.

    ``counts``: the :func:`joint_counts` of all groups of the batch; by default those of these predictions.
    """
    p1, p2, q1, q2 = first.label, second.label, first.confidence, second.confidence
    class_disagreement = disagreement(joint_counts(p1, p2, classes).asnumpy() if counts is None else counts, variant)
    take_first = ops.gather(ms.Tensor(class_disagreement.first_wins.ravel()), _pairs(p1, p2, classes), 0)
    q1, q2 = (ops.broadcast_to(confidence, p1.shape) for confidence in (q1, q2))
    agree, mean = p1 == p2, (q1 + q2) / 2
    chosen = ops.where(agree, mean, ops.where(take_first, q1, q2))
    return Targets(p1.masked_fill(~agree, IGNORE), mean, ops.where(take_first, p1, p2), chosen, class_disagreement)


def intersection_loss(logits: Tensor, mixed_targets: Targets, settings: CPCLSettings) -> Tensor:
    """Return L_inter without its weight in the sum; ``logits`` ``[B,K,H,W]`` of branch 1."""
    divisor = mixed_targets.intersection.size
    if _means_over_kept(settings):
        divisor = (mixed_targets.intersection != IGNORE).astype(ms.float32).sum().clamp(min=1)
    return weighted_cross_entropy(logits, mixed_targets.intersection, mixed_targets.intersection_weight, divisor)


def union_loss(logits: Tensor, mixed_targets: Targets, settings: CPCLSettings) -> Tensor:
    """Return L_union without its weight in the sum; ``logits`` ``[B,K,H,W]`` of branch 2."""
    weights = mixed_targets.union_weight.mean() if _means_over_kept(settings) else mixed_targets.union_weight
    return weighted_cross_entropy(logits, mixed_targets.union, weights, mixed_targets.union.size)


def _means_over_kept(settings: CPCLSettings) -> bool:
    return settings.variant == "legacy_2022" and settings.legacy_divisor == "kept"
