"""Which pixels of a pseudo-label count, and for how much; the MindSpore file of the same name mirrors this one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.arrays import IGNORE
from common.methods.percentile import interpolate_percentile, percentile_position


def arg_max(scores: Tensor, dim: int) -> Tensor:
    """Return the indices, int64, of the largest ``scores`` along ``dim``; of equal ones the first.

    On a CPU PyTorch's maximum with its index takes a third of the time of its ``argmax`` where ``dim`` is not the last.
    """
    return scores.max(dim).indices if scores.device.type == "cpu" else scores.argmax(dim)


def entropy(probabilities: Tensor) -> Tensor:
    """Return ``[B,H,W]`` natural entropies of ``[B,K,H,W]`` probabilities (1e-10 inside the logarithm)."""
    return -(probabilities * torch.log(probabilities + 1e-10)).sum(1)


def percentile(values: Tensor, percent: float, among: Tensor | None = None) -> float:
    """Return NumPy's linear percentile of float32 ``values``, rounded to float32: of those ``among``, bool of the same shape.

    Without ``among`` it is that of all. There must be one at least.
    """
    values = values.flatten() if among is None else values[among]
    lower, fraction = percentile_position(values.numel(), percent)
    places = lower + 1, min(lower + 2, values.numel())
    low, high = torch.stack([values.kthvalue(place).values for place in places]).tolist()
    return float(interpolate_percentile(low, high, fraction))


def confident_labels(pseudo_label: Tensor, confidence: Tensor, threshold: float) -> Tensor:
    """Return ``pseudo_label`` ``[B,H,W]`` with pixels whose ``confidence`` is below ``threshold`` set to 255."""
    return pseudo_label.masked_fill(~(confidence >= threshold), IGNORE)


def drop_unreliable(uncertainty: Tensor, pseudo_label: Tensor, percent: float) -> tuple[Tensor, float | None]:
    """Return ``pseudo_label`` with pixels at or above the ``percent`` percentile of entropy set to 255, and that threshold.

    ``uncertainty`` and ``pseudo_label`` ``[B,H,W]``; the percentile runs over pixels with a label (None if there is none).
    """
    valid = pseudo_label != IGNORE
    if not valid.any():
        return pseudo_label, None
    threshold = percentile(uncertainty, percent, valid)
    return pseudo_label.masked_fill(uncertainty >= threshold, IGNORE), threshold


def kept_cross_entropy(logits: Tensor, target: Tensor, divisor: Tensor | float) -> Tensor:
    """Return the cross entropy summed over the pixels that have a target (not 255), over ``divisor``.

    ``logits`` ``[B,K,...]``, ``target`` ``[B,...]``. Without a target it is 0 with zero gradient.
    """
    return F.cross_entropy(logits, target.long(), ignore_index=IGNORE, reduction="sum") / divisor


def unsupervised_loss(logits: Tensor, pseudo_label: Tensor) -> Tensor:
    """Return (all pixels / kept pixels) * mean cross entropy over the kept pixels (U2PL's)."""
    kept = (pseudo_label != IGNORE).sum().clamp(min=1)
    return kept_cross_entropy(logits, pseudo_label, kept**2 / pseudo_label.numel())


def kept_share(target: Tensor) -> Tensor:
    """Return the share of pixels ``[B,H,W]`` that have a target (not 255)."""
    return (target != IGNORE).float().mean()


def certainty(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest probability, float32, and its class, uint8, of every pixel ``[B,H,W]``; ``logits`` ``[B,K,H,W]``."""
    with torch.no_grad():
        confidence, label = logits.softmax(1).max(1)
        return confidence, label.to(torch.uint8)


def certain_loss(logits: Tensor, label: Tensor, confidence: Tensor, ignore: Tensor, threshold: float) -> Tensor:
    """Return the cross entropy over the certain pixels that are no padding, divided by the number of all that are none.

    ``logits`` ``[B,K,H,W]``; ``label``, ``confidence`` and ``ignore`` (255 = padding) ``[B,H,W]``. 0 where all is padding
    (UniMatch and UCCL).
    """
    shown = ignore != IGNORE
    target = label.masked_fill(~(shown & (confidence >= threshold)), IGNORE)
    return kept_cross_entropy(logits, target, shown.sum().clamp(min=1))


def certain_share(confidence: Tensor, ignore: Tensor, threshold: float) -> Tensor:
    """Return the share of certain pixels among those that are no padding; arguments as in :func:`certain_loss`."""
    shown = ignore != IGNORE
    return (shown & (confidence >= threshold)).sum() / shown.sum().clamp(min=1)
