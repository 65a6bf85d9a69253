"""Hard pseudo-labels with a confidence threshold, as FixMatch uses them; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor

from mindspore_impl.losses import IGNORE, cross_entropy


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
    certain = shown & (confidence >= np.float32(threshold))
    share = certain.sum() / max(shown.sum(), 1)
    return float(share) * cross_entropy(logits, np.where(certain, label, label.dtype.type(IGNORE)))


def certain_share(confidence: np.ndarray, ignore: np.ndarray, threshold: float) -> float:
    """Return the share of certain pixels among those that are no padding; arguments as in :func:`certain_loss`."""
    shown = ignore != IGNORE
    return float((shown & (confidence >= np.float32(threshold))).sum() / max(shown.sum(), 1))
