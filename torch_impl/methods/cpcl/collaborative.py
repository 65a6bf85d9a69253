"""What two networks trained side by side teach each other (CPCL, CPS); the MindSpore file of the same name mirrors this one.

    p_k = arg max_c t_k,  q_k = max_c softmax_c(t_k),  t_k = logits of network k on the mixed image, k = 1, 2
    where p1 = p2:  intersection p1,  union p1,  weight (q1 + q2) / 2
    else:           intersection 255, union p1 with weight q1 if class p1 has the higher disagreement score, else p2 with q2
    L_inter = mean of weight * CE(z1, intersection),  L_union = mean of weight * CE(z2, union)  over all pixels

Source: the programs of CPCL (leofansq/CPCL) and CPS (charlesCXK/TorchSemiSeg). To be cheap, teacher logits are resized, mixed
and reduced image by image, labels are 8-bit, classes are compared by tables over pairs of labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.arrays import IGNORE, Size
from common.methods.cpcl.cpcl import CPCLSettings, Disagreement, Variant, disagreement
from torch_impl.losses import weighted_cross_entropy
from torch_impl.pseudo_labels import arg_max
from torch_impl.resize import resize

ROWS = 16
"""Image rows that a CPU reduces at once: what their logits need stays in its cache."""


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
    for index, mask in enumerate(masks):
        kept, taken = (resize(logits[index : index + 1], size)[0] for logits in (first, second))
        parts.append(_reduce(kept, taken, mask, variant))
    labels, confidences = (torch.stack(part) for part in zip(*parts))
    if variant == "head":
        return Prediction(labels, confidences)
    largest = confidences.view(groups, -1).amax(1).view(-1, 1, 1)
    return Prediction(labels, largest if groups == 1 else largest.repeat_interleave(len(labels) // groups, 0))


def _reduce(kept: Tensor, taken: Tensor, mask: Tensor, variant: Variant) -> tuple[Tensor, Tensor]:
    """Return class ids uint8 ``[H,W]`` and confidences of logits ``[K,H,W]`` mixed by ``mask``; ``legacy_2022``: one confidence.

    The largest soft maximum is 1 over the sum of exponentials of differences to the largest logit. The program of 2022 took
    the soft maximum along the rows of the image instead of along the classes.
    """
    if variant == "legacy_2022":
        logits = torch.where(mask, taken, kept)
        along_row = (logits - logits.amax(2, keepdim=True)).exp_().sum(2)
        return arg_max(logits, 0).to(torch.uint8), along_row.min().reciprocal()
    labels = torch.empty(mask.shape, dtype=torch.uint8, device=mask.device)
    confidences = torch.empty(mask.shape, dtype=kept.dtype, device=mask.device)
    numbers = torch.arange(len(kept), dtype=torch.uint8, device=mask.device).view(-1, 1, 1)
    step = ROWS if mask.device.type == "cpu" else len(mask)
    for top in range(0, len(mask), step):
        rows = slice(top, top + step)
        logits = torch.where(mask[rows], taken[:, rows], kept[:, rows])
        best = logits.amax(0)
        # The first class that has the largest logit; twice as fast as a maximum with its index.
        labels[rows] = torch.where(logits == best, numbers, numbers[-1]).amin(0)
        confidences[rows] = logits.sub_(best).exp_().sum(0)
    return labels, confidences.reciprocal_()


def class_ids(logits: Tensor, size: Size) -> Tensor:
    """Return uint8 ``[B,H,W]`` class ids at ``size`` of logits ``[B,K,h,w]``, image by image."""
    return torch.stack([arg_max(resize(part, size)[0], 0).to(torch.uint8) for part in logits.split(1)])


def joint_counts(first: Tensor, second: Tensor, classes: int) -> Tensor:
    """Return int64 ``[K,K]``: pixels whose label is a in ``first`` (row) and b in ``second``, both uint8 ``[B,H,W]``."""
    size = classes * classes
    counts = sum(torch.bincount(_pairs(a, b, classes).flatten(), minlength=size) for a, b in zip(first, second))
    return counts.view(classes, classes)


def _pairs(first: Tensor, second: Tensor, classes: int) -> Tensor:
    """Return a * classes + b of two label maps: the place of their pair in a table ``[K,K]``."""
    return first.to(torch.int32) * classes + second


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
    if counts is None:
        counts = joint_counts(first.label, second.label, classes).cpu().numpy()
    class_disagreement = disagreement(counts, variant)
    wins = torch.from_numpy(class_disagreement.first_wins).to(first.label.device).flatten()
    ignored = torch.full_like(first.label[0], IGNORE)
    intersection, union = torch.empty_like(first.label), torch.empty_like(first.label)
    weight, chosen = (torch.empty(first.label.shape, device=wins.device) for _ in range(2))
    for index, (p1, p2, q1, q2) in enumerate(zip(first.label, second.label, *_by_image(first, second))):
        take_first = wins.index_select(0, _pairs(p1, p2, classes).flatten()).view(p1.shape)
        agree, mean = p1 == p2, torch.add(q1, q2, out=weight[index]).mul_(0.5)
        torch.where(take_first, p1, p2, out=union[index])
        torch.where(agree, p1, ignored, out=intersection[index])
        torch.where(agree, mean, torch.where(take_first, q1, q2), out=chosen[index])
    return Targets(intersection, weight, union, chosen, class_disagreement)


def _by_image(*predictions: Prediction) -> list[Tensor]:
    """Return the confidences as maps, for one confidence the same everywhere."""
    return [prediction.confidence.expand(prediction.label.shape) for prediction in predictions]


def intersection_loss(logits: Tensor, mixed_targets: Targets, settings: CPCLSettings) -> Tensor:
    """Return L_inter without its weight in the sum; ``logits`` ``[B,K,H,W]`` of branch 1."""
    divisor = mixed_targets.intersection.numel()
    if _means_over_kept(settings):
        divisor = max(int((mixed_targets.intersection != IGNORE).sum()), 1)
    return weighted_cross_entropy(logits, mixed_targets.intersection, mixed_targets.intersection_weight, divisor)


def union_loss(logits: Tensor, mixed_targets: Targets, settings: CPCLSettings) -> Tensor:
    """Return L_union without its weight in the sum; ``logits`` ``[B,K,H,W]`` of branch 2."""
    weights = mixed_targets.union_weight.mean() if _means_over_kept(settings) else mixed_targets.union_weight
    return weighted_cross_entropy(logits, mixed_targets.union, weights, mixed_targets.union.numel())


def _means_over_kept(settings: CPCLSettings) -> bool:
    return settings.variant == "legacy_2022" and settings.legacy_divisor == "kept"
