"""Hard pseudo-labels with a confidence threshold, as FixMatch uses them; the MindSpore file of the same name mirrors this one."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_impl.losses import IGNORE, cross_entropy


def certainty(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest probability, float32, and its class, uint8, of every pixel ``[B,H,W]``; ``logits`` ``[B,K,H,W]``."""
    with torch.no_grad():
        confidence, label = logits.softmax(1).max(1)
        return confidence, label.to(torch.uint8)


def certain_loss(logits: Tensor, label: Tensor, confidence: Tensor, ignore: Tensor, threshold: float) -> Tensor:
    """Return the cross entropy over the certain pixels that are no padding, divided by the number of all that are none.

    ``logits`` ``[B,K,H,W]``; ``label``, ``confidence`` and ``ignore`` (255 = padding) ``[B,H,W]``. 0 where all is padding
    (``specs/uccl.md`` section 4.3).
    """
    shown = ignore != IGNORE
    certain = shown & (confidence >= threshold)
    share = certain.sum() / shown.sum().clamp(min=1)
    return share * cross_entropy(logits, label.masked_fill(~certain, IGNORE))


def certain_share(confidence: Tensor, ignore: Tensor, threshold: float) -> Tensor:
    """Return the share of certain pixels among those that are no padding; arguments as in :func:`certain_loss`."""
    shown = ignore != IGNORE
    return (shown & (confidence >= threshold)).sum() / shown.sum().clamp(min=1)
