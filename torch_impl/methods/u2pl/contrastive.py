"""U2PL's pixel contrastive loss with a memory bank; the MindSpore file of the same name mirrors this one.

Source: ``u2pl/utils/loss_helper.py`` of the authors; switches: ``docs/methods/u2pl.md``. To be cheap, indices are
drawn before any feature is gathered, ranks come from comparisons, and the gradient with respect to the anchors is computed in
closed form beside the loss, so that no drawn negative is kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.methods.u2pl.u2pl import ContrastiveDraws, ContrastiveSettings, drawn_terms
from torch_impl.known_gradient import KnownGradient
from torch_impl.losses import IGNORE
from torch_impl.methods.u2pl.memory_bank import MemoryBank

NORM_FLOOR = 1e-8

ROWS_AT_ONCE = 2048
"""Negatives that a CPU compares at a time: rows of 256 values stay in its cache while they are read three times."""


@dataclass
class ContrastiveResult:
    """The loss and what led to it. Lists of the evaluated terms run over positions j of ``valid_classes``."""

    loss: Tensor
    valid_classes: list[int]
    anchor_candidates: list[int]
    new_keys: list[int]
    class_means: Tensor
    evaluated_position: list[int]
    evaluated_bank_class: list[int]
    class_terms: list[float]
    prototype: Tensor | None = None


def label_maps(labels: Tensor, classes: int, encoding: str) -> Tensor:
    """Return bool ``[B,K,h,w]`` class maps of labels ``[B,h,w]``; nothing is set where the label is 255.

    ``union_first`` repeats the released program: the first image receives the union of the labels of all
    images, in which an ignored pixel of another image counts as class 0; the other images receive nothing.
    """
    index = torch.arange(classes, device=labels.device, dtype=labels.dtype).view(1, classes, 1, 1)
    if encoding == "onehot":
        return labels.unsqueeze(1) == index
    filled = labels.masked_fill(labels == IGNORE, 0)
    maps = torch.zeros((len(labels), classes, *labels.shape[1:]), dtype=torch.bool, device=labels.device)
    maps[0] = (filled.unsqueeze(1) == index).any(0) & (labels[0] != IGNORE)
    return maps


def contrastive_loss(
    representation: Tensor,
    teacher_representation: Tensor,
    probabilities: Tensor,
    maps: Tensor,
    low_mask: Tensor,
    high_mask: Tensor,
    labelled: int,
    bank: MemoryBank,
    settings: ContrastiveSettings,
    draws: ContrastiveDraws,
    prototype: Tensor | None = None,
    prototype_decay: float = 0.0,
    new_keys: list[int] | None = None,
) -> ContrastiveResult:
    """Return the contrastive loss and append this step's keys to ``bank``, unless ``new_keys`` says how many it has received.

    ``representation`` and ``teacher_representation`` ``[B,D,h,w]``, ``probabilities`` ``[B,K,h,w]`` of the teacher, ``maps`` bool
    ``[B,K,h,w]``, masks bool ``[B,h,w]``; the first ``labelled`` images are the labelled ones. Gradient goes to
    ``representation`` at the anchors only. ``prototype`` ``[K,num_queries,D]`` is the moving average of ``anchor_ema``.
    """
    classes = maps.shape[1]
    members = (maps & low_mask.unsqueeze(1)).transpose(0, 1).flatten(1)
    confident = members & (probabilities > settings.anchor_threshold).transpose(0, 1).flatten(1)
    counts, candidates = torch.stack([members.sum(1), confident.sum(1)]).tolist()
    chosen = confident if settings.positive == "anchors" else members
    weights = probabilities.amax(1) if settings.conf_weight else None
    means = class_means(teacher_representation, chosen, weights)
    if new_keys is None:
        new_keys = append_keys(teacher_representation, probabilities, maps, high_mask, labelled, bank, settings)
    valid = [index for index in range(classes) if counts[index]]
    result = ContrastiveResult(representation.sum() * 0, valid, candidates, new_keys, means, [], [], [])
    if len(valid) > 1:
        _add_terms(result, representation, confident, bank, settings, draws, prototype, prototype_decay)
    return result


def _add_terms(
    result: ContrastiveResult,
    representation: Tensor,
    confident: Tensor,
    bank: MemoryBank,
    settings: ContrastiveSettings,
    draws: ContrastiveDraws,
    prototype: Tensor | None,
    prototype_decay: float,
) -> None:
    """Set loss, terms and prototype of ``result``; ``confident`` bool ``[K,B*h*w]`` are the pixels that may be anchors."""
    if prototype is not None:
        result.prototype = torch.zeros_like(prototype)
    pixels, gradients, total, classes = [], [], 0.0, len(result.valid_classes)
    terms = drawn_terms(result.valid_classes, result.anchor_candidates, bank.counts, settings, draws)
    for position, class_id, anchor_class, drawn, rows in terms:
        result.evaluated_position.append(position)
        result.evaluated_bank_class.append(class_id)
        pixel = confident[anchor_class].nonzero().squeeze(1)[torch.from_numpy(drawn).to(confident.device)]
        positive = result.class_means[anchor_class].expand(len(drawn), -1)
        if prototype is not None:
            if prototype.any():
                positive = (1 - prototype_decay) * positive + prototype_decay * prototype[class_id]
            result.prototype[class_id] = positive
        anchors = gather_pixels(representation, pixel)
        term, gradient = _term_in_parts(anchors, positive, bank, class_id, rows, settings.temperature)
        pixels.append(pixel)
        gradients.append(gradient / classes)
        total += term / classes
        result.class_terms.append(term)
    if pixels:
        result.loss = KnownGradient.apply(representation, torch.cat(pixels), torch.cat(gradients), total)


def class_means(features: Tensor, members: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return ``[K,D]`` mean features of each class's pixels; 0 for a class without any.

    ``features`` ``[B,D,h,w]``, ``members`` bool ``[K,B*h*w]``, ``weights`` of the pixels ``[B,h,w]`` (none: all alike).
    """
    batch, _, height, width = features.shape
    shares = members.view(len(members), batch, height * width).transpose(0, 1).to(features.dtype)
    total = members.sum(1, keepdim=True).clamp(min=1)
    if weights is not None:
        shares = shares * weights.flatten(1).unsqueeze(1)
        total = shares.sum((0, 2)).unsqueeze(1)
        total = total.where(total > 0, torch.ones_like(total))
    return torch.bmm(shares, features.flatten(2).transpose(1, 2)).sum(0) / total


def append_keys(
    features: Tensor,
    probabilities: Tensor,
    maps: Tensor,
    high_mask: Tensor,
    labelled: int,
    bank: MemoryBank,
    settings: ContrastiveSettings,
) -> list[int]:
    """Append every class's :func:`negative_keys` and return how many there were."""
    numbers = []
    for class_id, rows in enumerate(negative_keys(features, probabilities, maps, high_mask, labelled, settings)):
        bank.append(class_id, rows)
        numbers.append(len(rows))
    return numbers


def negative_keys(
    features: Tensor,
    probabilities: Tensor,
    maps: Tensor,
    high_mask: Tensor,
    labelled: int,
    settings: ContrastiveSettings,
) -> Iterator[Tensor]:
    """Yield every class's negative keys ``[n,D]``, in row-major pixel order."""
    ranked = probabilities.transpose(0, 1).flatten(1)
    below = probabilities < settings.negative_threshold
    is_labelled = torch.arange(len(maps), device=maps.device).view(-1, 1, 1) < labelled
    for class_id in range(maps.shape[1]):
        allowed = high_mask & below[:, class_id]
        if settings.negatives == "code":
            allowed = allowed & maps[:, class_id] & ~is_labelled
        else:
            other_label = maps.any(1) & ~maps[:, class_id]
            allowed = allowed & (~is_labelled | other_label)
        pixel = allowed.flatten().nonzero().squeeze(1)
        at_pixel = ranked[:, pixel]
        rank = (at_pixel > at_pixel[class_id]).sum(0)
        wanted = (rank >= settings.low_rank) & (rank < settings.high_rank)
        if settings.negatives == "paper":
            of_labelled = is_labelled.expand_as(high_mask).flatten()[pixel]
            wanted = torch.where(of_labelled, rank < settings.low_rank, wanted)
        yield gather_pixels(features, pixel[wanted])


def gather_pixels(features: Tensor, pixel: Tensor) -> Tensor:
    """Return rows ``[n,D]`` of ``features`` ``[B,D,h,w]`` at flat positions ``[n]`` of (b, row, column)."""
    area = features.shape[2] * features.shape[3]
    return features.detach().flatten(2)[pixel // area, :, pixel % area]


def anchor_term(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> tuple[float, Tensor]:
    """Return one class's InfoNCE loss, averaged over anchors, and its gradient ``[n,D]``.

    ``anchors`` and ``positives`` ``[n,D]``, ``negatives`` ``[n*m,D]`` (row i*m.. belong to anchor i); similarity is the cosine
    with norms clamped at 1e-8.
    """
    count, width = anchors.shape
    norm = anchors.norm(dim=1, keepdim=True)
    floored = norm.clamp(min=NORM_FLOOR)
    unit = anchors / floored
    positive_unit = positives / positives.norm(dim=1, keepdim=True).clamp(min=NORM_FLOOR)
    negatives = negatives.view(count, -1, width)
    negative_norm = negatives.norm(dim=2).clamp(min=NORM_FLOOR)
    positive_similarity = (unit * positive_unit).sum(1, keepdim=True)
    negative_similarity = torch.bmm(negatives, unit.unsqueeze(2)).squeeze(2) / negative_norm
    similarity = torch.cat([positive_similarity, negative_similarity], 1)
    log_probability = torch.log_softmax(similarity / temperature, 1)
    slope = log_probability.exp()
    slope[:, 0] -= 1
    slope /= temperature * count
    pulled = slope[:, :1] * positive_unit
    pulled += torch.bmm((slope[:, 1:] / negative_norm).unsqueeze(1), negatives).squeeze(1)
    along = (slope * similarity).sum(1, keepdim=True) * unit * (norm > NORM_FLOOR)
    return float(-log_probability[:, 0].mean()), (pulled - along) / floored


def _term_in_parts(
    anchors: Tensor, positives: Tensor, bank: MemoryBank, class_id: int, rows: np.ndarray, temperature: float
) -> tuple[float, Tensor]:
    """Return :func:`anchor_term` with the negatives at logical ``rows`` ``[n*m]`` of a queue, on a CPU some anchors at a time."""
    count, each = len(anchors), len(rows) // len(anchors)
    step = max(ROWS_AT_ONCE // each, 1) if anchors.device.type == "cpu" else count
    parts = []
    for first in range(0, count, step):
        chunk, theirs = slice(first, first + step), slice(first * each, (first + step) * each)
        term, gradient = anchor_term(anchors[chunk], positives[chunk], bank.gather(class_id, rows[theirs]), temperature)
        parts.append((len(gradient) / count, term, gradient))
    return sum(share * term for share, term, _ in parts), torch.cat([share * gradient for share, _, gradient in parts])
