"""U2PL's pixel contrastive loss with a memory bank; the PyTorch file of the same name mirrors this one.

Source: ``u2pl/utils/loss_helper.py`` of the authors; switches: ``docs/methods/u2pl.md``. To be cheap, indices are
drawn before any feature is gathered, ranks come from comparisons, and the gradient with respect to the anchors is computed in
closed form beside the loss, so that no drawn negative is kept for the backward pass.

Masks, means and terms have fixed shapes and are compiled; the host sees counts and terms. MindSpore builds an operator for every
new shape and keeps it for ever: rows are gathered in numbers that come again and cut by slices, which cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from common.methods.u2pl.u2pl import ContrastiveDraws, ContrastiveSettings, drawn_terms
from mindspore_impl.known_gradient import known
from mindspore_impl.losses import IGNORE, one_hot
from mindspore_impl.methods.u2pl.memory_bank import MemoryBank

NORM_FLOOR = 1e-8

TOGETHER = 4
"""Classes whose terms one call of the compiled function computes: a call costs as much as a class, a class needs 13 MB of negatives."""


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
    if encoding == "onehot":
        return one_hot(labels, classes)
    filled = one_hot(labels.masked_fill(labels == IGNORE, 0), classes)
    first = ops.logical_and(filled.any(0), labels[0] != IGNORE)
    return ops.stack([first] + [ops.zeros_like(first)] * (len(labels) - 1))


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
    members, confident, ranks, numbers = _members(maps, low_mask, probabilities, settings.anchor_threshold)
    counts, candidates = numbers.asnumpy().tolist()
    chosen = confident if settings.positive == "anchors" else members
    weights = ops.amax(probabilities, 1) if settings.conf_weight else None
    means = class_means(teacher_representation, chosen, weights)
    if new_keys is None:
        new_keys = append_keys(teacher_representation, probabilities, maps, high_mask, labelled, bank, settings)
    valid = [index for index in range(classes) if counts[index]]
    result = ContrastiveResult(ops.zeros((), ms.float32), valid, candidates, new_keys, means, [], [], [])
    if len(valid) > 1:
        _add_terms(result, representation, ranks, bank, settings, draws, prototype, prototype_decay)
    return result


def _add_terms(
    result: ContrastiveResult,
    representation: Tensor,
    ranks: Tensor,
    bank: MemoryBank,
    settings: ContrastiveSettings,
    draws: ContrastiveDraws,
    prototype: Tensor | None,
    prototype_decay: float,
) -> None:
    """Set loss, terms and prototype of ``result``; ``ranks`` ``[K*B*h*w]`` are those of the pixels that may be anchors."""
    if prototype is not None:
        result.prototype = ops.zeros_like(prototype)
        if not prototype.any():
            prototype_decay = 0.0
    before, classes = np.cumsum([0, *result.anchor_candidates]), len(result.valid_classes)
    drawn = list(drawn_terms(result.valid_classes, result.anchor_candidates, bank.counts, settings, draws))
    result.evaluated_position = [term.position for term in drawn]
    result.evaluated_bank_class = [term.bank_class for term in drawn]
    rows, pixels, gradients, terms = _rows(ops.stop_gradient(representation)), [], [], []
    for first in range(0, len(drawn), TOGETHER):
        group = drawn[first : first + TOGETHER]
        filler = TOGETHER - len(group)  # the last class again, without weight: all calls have one shape
        _, class_id, anchor_class, anchors, negatives = (np.stack(part) for part in zip(*group, *group[-1:] * filler))
        pixel = _nth(ranks, before[anchor_class][:, None] + anchors, len(rows))
        positive = ops.gather(result.class_means, _indices(anchor_class), 0).expand_dims(1)
        positive = positive.tile((1, anchors.shape[1], 1))
        if prototype is not None:
            earlier = ops.gather(prototype, _indices(class_id), 0)
            positive = (1 - prototype_decay) * positive + prototype_decay * earlier
            for place, index in enumerate(class_id.tolist()):
                result.prototype[index] = positive[place]
        negative = bank.gather(class_id.repeat(negatives.shape[1]), negatives.ravel())
        term, gradient = anchor_term(ops.gather(rows, pixel, 0), positive, negative, settings.temperature)
        share = ms.Tensor([1 / classes] * len(group) + [0.0] * filler, ms.float32)
        pixels.append(pixel)
        gradients.append(gradient * share.reshape(-1, 1, 1))
        terms.append(term * share)
    if drawn:
        spread = ops.unsorted_segment_sum(ops.cat(gradients), ops.cat(pixels), len(rows))
        total = ops.cat(terms)
        result.class_terms = (total.asnumpy()[: len(drawn)] * classes).tolist()
        result.loss = known(representation, total.sum(), _maps(spread, representation.shape))


@ms.jit
def _members(maps: Tensor, low_mask: Tensor, probabilities: Tensor, threshold: float) -> tuple[Tensor, ...]:
    """Return the classes' members and the confident ones, bool ``[K,B*h*w]``, ranks of these, and how many of both ``[2,K]``."""
    members = _class_first(ops.logical_and(maps, low_mask.expand_dims(1)))
    confident = ops.logical_and(members, _class_first(probabilities > threshold))
    numbers = ops.stack([_count(members), _count(confident)])
    return members, confident, _ranks(confident), numbers


def class_means(features: Tensor, members: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return ``[K,D]`` mean features of each class's pixels; 0 for a class without any.

    ``features`` ``[B,D,h,w]``, ``members`` bool ``[K,B*h*w]``, ``weights`` of the pixels ``[B,h,w]`` (none: all alike).
    """
    batch, width, height, columns = features.shape
    shares = members.reshape(len(members), batch, height * columns).swapaxes(0, 1).astype(features.dtype)
    if weights is not None:
        shares = shares * weights.reshape(batch, 1, -1)
    total = shares.sum((0, 2)).expand_dims(1)
    total = ops.where(total > 0, total, ops.ones_like(total))
    return ops.bmm(shares, features.reshape(batch, width, -1).swapaxes(1, 2)).sum(0) / total


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
    ranks, counts = _wanted_keys(
        probabilities, maps, high_mask, labelled, settings.negative_threshold, settings.negatives, settings.low_rank,
        settings.high_rank,
    )  # fmt: skip
    rows, before, none = _rows(features), 0, ms.Tensor(np.zeros((0, features.shape[1]), np.float32))
    for number in counts.asnumpy().tolist():
        size = 1 << max(number - 1, 0).bit_length()  # a power of two; beyond the number the last one again
        wanted = np.minimum(np.arange(size), number - 1)
        yield ops.gather(rows, _nth(ranks, before + wanted, len(rows)), 0)[:number] if number else none
        before += number


@ms.jit
def _wanted_keys(
    probabilities: Tensor,
    maps: Tensor,
    high_mask: Tensor,
    labelled: int,
    threshold: float,
    negatives: str,
    low_rank: int,
    high_rank: int,
) -> tuple[Tensor, Tensor]:
    """Return the ranks of the pixels that are keys of a class, and how many each class has ``[K]``."""
    unlabelled = (ops.arange(maps.shape[0]) >= labelled).reshape(-1, 1, 1, 1)
    allowed = ops.logical_and(high_mask.expand_dims(1), probabilities < threshold)
    if negatives == "code":
        allowed = ops.logical_and(ops.logical_and(allowed, maps), unlabelled)
    else:
        other_label = ops.logical_and(maps.any(1, keep_dims=True), ops.logical_not(maps))
        allowed = ops.logical_and(allowed, ops.logical_or(unlabelled, other_label))
    places = []
    for class_id in range(maps.shape[1]):
        places.append((probabilities > probabilities[:, class_id : class_id + 1]).astype(ms.float32).sum(1))
    place = ops.stack(places, 1)
    wanted = ops.logical_and(place >= low_rank, place < high_rank)
    if negatives == "paper":
        wanted = ops.where(unlabelled, wanted, place < low_rank)
    wanted = _class_first(ops.logical_and(allowed, wanted))
    return _ranks(wanted), _count(wanted)


@ms.jit
def anchor_term(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the InfoNCE losses ``[J]`` of J classes, averaged over anchors, and their gradients ``[J,n,D]``.

    ``anchors`` and ``positives`` ``[J,n,D]``, ``negatives`` ``[J*n*m,D]`` (row i*m.. belong to anchor i of all); similarity is the
    cosine with norms clamped at 1e-8.
    """
    classes, count, width = anchors.shape
    anchor_rows, floor = anchors.reshape(-1, width), ms.Tensor(NORM_FLOOR, anchors.dtype)
    norm = ops.sqrt((anchor_rows * anchor_rows).sum(1, keepdims=True))
    floored = ops.maximum(norm, floor)
    unit = anchor_rows / floored
    positive_unit = positives.reshape(-1, width)
    positive_unit = positive_unit / ops.maximum(ops.sqrt((positive_unit * positive_unit).sum(1, keepdims=True)), floor)
    negative_norm = ops.maximum(ops.sqrt((negatives * negatives).sum(1)), floor).reshape(classes * count, -1)
    negatives = negatives.reshape(classes * count, -1, width)
    positive_similarity = (unit * positive_unit).sum(1, keepdims=True)
    negative_similarity = ops.bmm(negatives, unit.expand_dims(2)).squeeze(2) / negative_norm
    scaled = ops.cat([positive_similarity, negative_similarity], 1) / temperature
    scaled = scaled - ops.amax(scaled, 1, True)
    log_probability = scaled - ops.log(ops.exp(scaled).sum(1, keepdims=True))
    slope = ops.exp(log_probability)
    first = (slope[:, :1] - 1) / (temperature * count)
    others = slope[:, 1:] / (temperature * count)
    pulled = first * positive_unit + ops.bmm((others / negative_norm).expand_dims(1), negatives).squeeze(1)
    along = (first * positive_similarity + (others * negative_similarity).sum(1, keepdims=True)) * unit
    gradient = (pulled - along * (norm > NORM_FLOOR).astype(along.dtype)) / floored
    return -log_probability[:, 0].reshape(classes, count).mean(1), gradient.reshape(anchors.shape)


def _nth(ranks: Tensor, wanted: np.ndarray, pixels: int) -> Tensor:
    """Return the flat pixels, int64, of the selected ones numbered ``wanted`` from 0 over all classes; ``pixels``: of one class."""
    return ops.searchsorted(ranks, _indices(wanted + 1)) % pixels


def _indices(values: np.ndarray) -> Tensor:
    return ms.Tensor(values.astype(np.int32))


def _ranks(selected: Tensor) -> Tensor:
    """Return int32 ``[K*P]``: how many are selected in bool ``[K,P]``, flattened, up to each place."""
    return ops.cumsum(selected.reshape(-1).astype(ms.int32), 0)


def _count(selected: Tensor) -> Tensor:
    return selected.astype(ms.float32).sum(1).astype(ms.int32)


def _class_first(values: Tensor) -> Tensor:
    """Return ``[K,B*h*w]`` of ``[B,K,h,w]``."""
    return values.swapaxes(0, 1).reshape(values.shape[1], -1)


@ms.jit
def _rows(features: Tensor) -> Tensor:
    """Return ``[B*h*w,D]`` of ``[B,D,h,w]``."""
    return features.transpose(0, 2, 3, 1).reshape(-1, features.shape[1])


def _maps(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return ``[B,D,h,w]``, which is ``shape``, of ``[B*h*w,D]``."""
    batch, width, height, columns = shape
    return rows.reshape(batch, height, columns, width).transpose(0, 3, 1, 2)
