"""Mean Teacher in float64, written down plainly: the consistency and its gradient in NumPy, and a whole step in PyTorch."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.methods.interface import Batch


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits ``[B,K,h,w]``."""
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def consistency(logits: np.ndarray, probabilities: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean over pixels of |softmax(logits) - probabilities|^2, and its gradient with respect to the logits."""
    mine, theirs = softmax(logits.astype(np.float64)), probabilities.astype(np.float64)
    apart, pixels = mine - theirs, mine.size / mine.shape[1]
    upstream = 2 * apart / pixels
    return float((apart**2).sum() / pixels), mine * (upstream - (mine * upstream).sum(1, keepdims=True))


def plain_step(
    networks: dict[str, nn.Module], batch: Batch, weight: float, rates: tuple[float, float], weight_decay: float
) -> tuple[dict[str, float], nn.Module]:
    """Return the losses of a step without momentum, and the student after it, in float64; ``networks`` without dropout.

    ``rates``: learning rates of encoder and heads.
    """
    student, teacher = (copy.deepcopy(networks[role]).double().train() for role in ("student", "teacher"))
    images = torch.cat([torch.from_numpy(batch[name]["image"]).double() for name in ("labelled", "unlabelled")])
    labels = torch.from_numpy(batch["labelled"]["label"]).long()
    logits, targets = student(images)["logits"], teacher(images)["logits"].detach().softmax(1)
    large = F.interpolate(logits[: len(labels)], labels.shape[1:], mode="bilinear", align_corners=True)
    losses = {
        "sup": F.cross_entropy(large, labels, ignore_index=255),
        "unsup": weight * ((logits.softmax(1) - targets) ** 2).sum(1).mean(),
    }
    sum(losses.values()).backward()
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            rate = rates[not name.startswith("encoder.")]
            parameter -= rate * (parameter.grad + weight_decay * parameter)
    return {name: loss.item() for name, loss in losses.items()}, student
