"""CPCL's pseudo-labels, targets and step written down plainly, with no thought of cost."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.methods.cpcl.collaborative import Draws
from common.methods.interface import Batch, Clock
from torch_impl.losses import supervised_loss
from torch_impl.methods.cpcl.cpcl import CPCL
from torch_impl.resize import resize


def plain_prediction(kept: Tensor, taken: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels and confidences ``[B,H,W]`` of full-size logits ``[B,K,H,W]`` mixed by ``masks`` ``[B,H,W]``."""
    share = masks.unsqueeze(1).to(kept.dtype)
    mixed = kept * (1 - share) + taken * share
    return mixed.argmax(1), F.softmax(mixed, 1).max(1).values


def confusion_matrix(first: np.ndarray, second: np.ndarray, classes: int) -> np.ndarray:
    """Return counts ``[K,K]`` as a general library makes them: any labels, found by sorting and renumbered, then counted."""
    all_labels = np.union1d(first, second)
    places = [np.searchsorted(all_labels, labels) for labels in (first, second)]
    counts = np.zeros((len(all_labels), len(all_labels)), np.int64)
    np.add.at(counts, tuple(places), 1)
    matrix = np.zeros((classes, classes), np.int64)
    matrix[np.ix_(all_labels, all_labels)] = counts
    return matrix


def plain_targets(
    labels: tuple[Tensor, Tensor], confidences: tuple[Tensor, Tensor], classes: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return intersection label and weight, union label and weight, all ``[B,H,W]``, counted and compared on the host."""
    first, second = (label.numpy() for label in labels)
    q1, q2 = (confidence.numpy() for confidence in confidences)
    matrix = np.eye(classes, dtype=np.int64) + confusion_matrix(first.ravel(), second.ravel(), classes)
    row, column, agreed = matrix.sum(1), matrix.sum(0), matrix.diagonal()
    raw = (column - agreed) / column + (row - agreed) / row
    scores = raw / (raw.sum() + 1e-6)
    agree = first == second
    of_first, of_second = scores[first], scores[second]
    wins = of_first > of_second
    intersection = np.where(agree, first, 255)
    union = np.where(agree, first, np.where(wins, first, second))
    mean = (q1 + q2) / 2
    weight = np.where(agree, mean, np.where(wins, q1, q2))
    return tuple(torch.from_numpy(array) for array in (intersection, mean, union, weight))


def plain_step(method: CPCL, batch: Batch, clock: Clock, draws: Draws) -> dict[str, float]:
    """Leave the gradients of one step in both networks and return its losses: one sum, one backward pass over everything."""
    images, labels = (method.session.tensor(batch["labelled"][name]) for name in ("image", "label"))
    first, other = (method.session.tensor(batch[name]["image"]) for name in ("unlabelled", "unlabelled_other"))
    size, settings = first.shape[2:], method.settings
    masks = torch.from_numpy(draws.mix_masks(len(first), tuple(size)))
    share = masks.unsqueeze(1).to(first.dtype)
    mixed = first * (1 - share) + other * share
    losses = {}
    for branch in (1, 2):
        scores = resize(method.logits(branch, images, "labelled", clock), size)
        losses[f"sup{branch}"] = supervised_loss(method.config.criterion, scores, labels)
    with torch.no_grad():
        full = {
            (branch, view): resize(method.logits(branch, u, view, clock), size)
            for branch in (1, 2)
            for view, u in (("unlabelled", first), ("unlabelled_other", other))
        }
        said = [
            plain_prediction(full[branch, "unlabelled"], full[branch, "unlabelled_other"], masks) for branch in (1, 2)
        ]
        intersection, mean, union, weight = plain_targets(*zip(*said), method.classes)
    for branch, name, label, weights in ((1, "inter", intersection, mean), (2, "union", union, weight)):
        scores = resize(method.logits(branch, mixed, "mixed", clock), size)
        per_pixel = F.cross_entropy(scores, label, ignore_index=255, reduction="none")
        losses[name] = settings.unsup_weight * (per_pixel * weights).mean()
    for optimizer in method.optimizers.values():
        optimizer.rule.zero_grad(set_to_none=True)
    total = sum(losses.values())
    total.backward()
    return {name: loss.item() for name, loss in losses.items()} | {"loss": total.item()}
