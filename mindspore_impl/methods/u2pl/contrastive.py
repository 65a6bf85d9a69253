"""U2PL's pixel contrastive loss with a memory bank; the PyTorch file of the same name mirrors this one.

Source: ``specs/u2pl.md`` section 8 with the switches of section 18; the cheap order of work follows ``specs/cost.md``: indices are
drawn before any feature is gathered, ranks come from comparisons, and the gradient with respect to the anchors is computed in
closed form beside the loss, so that no drawn negative is kept for the backward pass.

What carries no gradient is NumPy here; arguments may be tensors or arrays. The loss belongs outside of compiled graphs.
"""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor

from common.methods.u2pl.u2pl import ContrastiveDraws, ContrastiveSettings
from mindspore_impl.known_gradient import KnownGradient
from mindspore_impl.losses import IGNORE
from mindspore_impl.methods.u2pl.memory_bank import MemoryBank

NORM_FLOOR = 1e-8


@dataclass
class ContrastiveResult:
    """The loss and what led to it. Lists of the evaluated terms run over positions j of ``valid_classes``."""

    loss: Tensor
    valid_classes: list[int]
    anchor_candidates: list[int]
    new_keys: list[int]
    class_means: np.ndarray
    evaluated_position: list[int]
    evaluated_bank_class: list[int]
    class_terms: list[float]
    prototype: np.ndarray | None = None


def label_maps(labels: np.ndarray, classes: int, encoding: str, processes: int = 1) -> np.ndarray:
    """Return bool ``[B,K,h,w]`` class maps of labels ``[B,h,w]``; nothing is set where the label is 255.

    ``union_first`` repeats the released program (section 18.1): the first image of a process receives the union of the labels
    of all its images, in which an ignored pixel of another image counts as class 0; the other images receive nothing. The
    batch is shared out to ``processes``.
    """
    labels = np.asarray(labels)
    index = np.arange(classes, dtype=labels.dtype).reshape(1, classes, 1, 1)
    if encoding == "onehot":
        return labels[:, None] == index
    filled = np.where(labels == IGNORE, 0, labels)
    maps = np.zeros((len(labels), classes, *labels.shape[1:]), bool)
    for images in np.array_split(np.arange(len(labels)), min(processes, len(labels))):
        first = images[0]
        maps[first] = (filled[images, None] == index).any(0) & (labels[first] != IGNORE)
    return maps


def contrastive_loss(
    representation: Tensor,
    teacher_representation: np.ndarray,
    probabilities: np.ndarray,
    maps: np.ndarray,
    low_mask: np.ndarray,
    high_mask: np.ndarray,
    labelled: int,
    bank: MemoryBank,
    settings: ContrastiveSettings,
    draws: ContrastiveDraws,
    prototype: np.ndarray | None = None,
    prototype_decay: float = 0.0,
) -> ContrastiveResult:
    """Return the contrastive loss and append this step's keys to ``bank``.

    ``representation`` and ``teacher_representation`` ``[B,D,h,w]``, ``probabilities`` ``[B,K,h,w]`` of the teacher, ``maps`` bool
    ``[B,K,h,w]``, masks bool ``[B,h,w]``; the first ``labelled`` images are the labelled ones. Gradient goes to
    ``representation`` at the anchors only. ``prototype`` ``[K,num_queries,D]`` is the moving average of ``anchor_ema``.
    """
    teacher_representation, probabilities = np.asarray(teacher_representation), np.asarray(probabilities)
    maps, low_mask, high_mask = np.asarray(maps), np.asarray(low_mask), np.asarray(high_mask)
    classes = maps.shape[1]
    members = _class_first(maps & low_mask[:, None])
    confident = members & _class_first(probabilities > np.float32(settings.anchor_threshold))
    counts = members.sum(1).tolist()
    candidates = confident.sum(1).tolist()
    chosen = confident if settings.positive == "anchors" else members
    weights = probabilities.max(1) if settings.conf_weight else None
    means = class_means(teacher_representation, chosen, weights)
    new_keys = append_keys(teacher_representation, probabilities, maps, high_mask, labelled, bank, settings)
    valid = [index for index in range(classes) if counts[index]]
    result = ContrastiveResult(ms.Tensor(0.0, ms.float32), valid, candidates, new_keys, means, [], [], [])
    if len(valid) <= 1:
        return result
    if prototype is not None:
        prototype = np.asarray(prototype)
        result.prototype = np.zeros_like(prototype)
    pixels, gradients, total = [], [], 0.0
    for position, class_id in enumerate(valid):
        anchor_class = position if settings.class_pairing == "position" else class_id
        if not candidates[anchor_class] or not bank.counts[class_id]:
            continue
        drawn = draws.anchors(candidates[anchor_class])
        pixel = confident[anchor_class].nonzero()[0][drawn]
        negatives = bank.gather(class_id, draws.negatives(bank.counts[class_id]))
        positive = np.broadcast_to(means[anchor_class], (len(drawn), means.shape[1]))
        if prototype is not None:
            if prototype.any():
                positive = (1 - prototype_decay) * positive + prototype_decay * prototype[class_id]
            result.prototype[class_id] = positive
        term, gradient = anchor_term(gather_pixels(representation, pixel), positive, negatives, settings.temperature)
        pixels.append(pixel)
        gradients.append(gradient / len(valid))
        total += term / len(valid)
        result.evaluated_position.append(position)
        result.evaluated_bank_class.append(class_id)
        result.class_terms.append(term)
    if pixels:
        result.loss = KnownGradient(np.concatenate(pixels), np.concatenate(gradients), total)(representation)
    return result


def class_means(features: np.ndarray, members: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return ``[K,D]`` mean features of each class's pixels; 0 for a class without any.

    ``features`` ``[B,D,h,w]``, ``members`` bool ``[K,B*h*w]``, ``weights`` of the pixels ``[B,h,w]`` (none: all alike).
    """
    batch, width, height, columns = features.shape
    shares = members.reshape(len(members), batch, height * columns).transpose(1, 0, 2).astype(features.dtype)
    total = np.maximum(members.sum(1, keepdims=True), 1).astype(features.dtype)
    if weights is not None:
        shares = shares * weights.reshape(batch, 1, -1)
        total = shares.sum((0, 2))[:, None]
        total = np.where(total > 0, total, np.ones_like(total))
    return (shares @ features.reshape(batch, width, -1).transpose(0, 2, 1)).sum(0) / total


def append_keys(
    features: np.ndarray,
    probabilities: np.ndarray,
    maps: np.ndarray,
    high_mask: np.ndarray,
    labelled: int,
    bank: MemoryBank,
    settings: ContrastiveSettings,
) -> list[int]:
    """Append every class's negative keys, in row-major pixel order, and return how many there were (sections 8.1, 18.3, 18.4)."""
    ranked = _class_first(probabilities)
    below = probabilities < np.float32(settings.negative_threshold)
    is_labelled = np.arange(len(maps)).reshape(-1, 1, 1) < labelled
    numbers = []
    for class_id in range(maps.shape[1]):
        allowed = high_mask & below[:, class_id]
        if settings.negatives == "code":
            allowed = allowed & maps[:, class_id] & ~is_labelled
        else:
            other_label = maps.any(1) & ~maps[:, class_id]
            allowed = allowed & (~is_labelled | other_label)
        pixel = allowed.ravel().nonzero()[0]
        at_pixel = ranked[:, pixel]
        rank = (at_pixel > at_pixel[class_id]).sum(0)
        wanted = (rank >= settings.low_rank) & (rank < settings.high_rank)
        if settings.negatives == "paper":
            of_labelled = np.broadcast_to(is_labelled, high_mask.shape).ravel()[pixel]
            wanted = np.where(of_labelled, rank < settings.low_rank, wanted)
        pixel = pixel[wanted]
        bank.append(class_id, gather_pixels(features, pixel))
        numbers.append(len(pixel))
    return numbers


def gather_pixels(features: Tensor | np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """Return rows ``[n,D]`` of ``features`` ``[B,D,h,w]`` at flat positions ``[n]`` of (b, row, column)."""
    area = features.shape[2] * features.shape[3]
    return np.asarray(features).reshape(*features.shape[:2], area)[pixel // area, :, pixel % area]


def anchor_term(
    anchors: np.ndarray, positives: np.ndarray, negatives: np.ndarray, temperature: float
) -> tuple[float, np.ndarray]:
    """Return one class's InfoNCE loss, averaged over anchors, and its gradient ``[n,D]``.

    ``anchors`` and ``positives`` ``[n,D]``, ``negatives`` ``[n*m,D]`` (row i*m.. belong to anchor i); similarity is the cosine
    with norms clamped at 1e-8.
    """
    count, width = anchors.shape
    norm = np.linalg.norm(anchors, axis=1, keepdims=True)
    floored = np.maximum(norm, np.float32(NORM_FLOOR))
    unit = anchors / floored
    positive_unit = positives / np.maximum(np.linalg.norm(positives, axis=1, keepdims=True), np.float32(NORM_FLOOR))
    negatives = negatives.reshape(count, -1, width)
    negative_norm = np.maximum(np.sqrt(np.einsum("nmd,nmd->nm", negatives, negatives)), np.float32(NORM_FLOOR))
    positive_similarity = (unit * positive_unit).sum(1, keepdims=True)
    negative_similarity = (negatives @ unit[:, :, None])[:, :, 0] / negative_norm
    similarity = np.concatenate([positive_similarity, negative_similarity], 1)
    scaled = similarity / np.float32(temperature)
    scaled -= scaled.max(1, keepdims=True)
    log_probability = scaled - np.log(np.exp(scaled).sum(1, keepdims=True))
    slope = np.exp(log_probability)
    slope[:, 0] -= 1
    slope /= np.float32(temperature * count)
    pulled = slope[:, :1] * positive_unit
    pulled += ((slope[:, 1:] / negative_norm)[:, None] @ negatives)[:, 0]
    along = (slope * similarity).sum(1, keepdims=True) * unit * (norm > NORM_FLOOR)
    return float(-log_probability[:, 0].mean()), (pulled - along) / floored


def _class_first(values: np.ndarray) -> np.ndarray:
    """Return ``[K,B*h*w]`` of ``[B,K,h,w]``."""
    return values.swapaxes(0, 1).reshape(values.shape[1], -1)
