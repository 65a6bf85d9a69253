"""Which pixels of a pseudo-label count, and for how much; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor

from common.arrays import IGNORE
from common.methods.percentile import interpolate_percentile, percentile_position
from mindspore_impl.losses import weighted_cross_entropy


def arg_max(scores: Tensor, dim: int) -> Tensor:
    """Return the indices of the largest ``scores`` along ``dim``; of equal ones the first."""
    return scores.argmax(dim)


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return ``[B,H,W]`` natural entropies of ``[B,K,H,W]`` probabilities (1e-10 inside the logarithm)."""
    probabilities = np.asarray(probabilities)
    return -(probabilities * np.log(probabilities + np.float32(1e-10))).sum(1)


def percentile(values: np.ndarray, percent: float) -> float:
    """Return NumPy's linear percentile of a non-empty float32 vector, rounded to float32."""
    values = np.asarray(values)
    lower, fraction = percentile_position(values.size, percent)
    upper = min(lower + 1, values.size - 1)
    ordered = np.partition(values, (lower, upper))
    return float(interpolate_percentile(ordered[lower], ordered[upper], fraction))


def confident_labels(pseudo_label: np.ndarray, confidence: np.ndarray, threshold: float) -> np.ndarray:
    """Return ``pseudo_label`` ``[B,H,W]`` with pixels whose ``confidence`` is below ``threshold`` set to 255."""
    return np.where(confidence >= np.float32(threshold), pseudo_label, pseudo_label.dtype.type(IGNORE))


def drop_unreliable(
    uncertainty: np.ndarray, pseudo_label: np.ndarray, percent: float
) -> tuple[np.ndarray, float | None]:
    """Return ``pseudo_label`` with pixels at or above the ``percent`` percentile of entropy set to 255, and that threshold.

    ``uncertainty`` and ``pseudo_label`` ``[B,H,W]``; the percentile runs over pixels with a label (None if there is none).
    """
    valid = pseudo_label != IGNORE
    if not valid.any():
        return pseudo_label, None
    threshold = percentile(uncertainty[valid], percent)
    unreliable = uncertainty >= np.float32(threshold)
    return np.where(unreliable, pseudo_label.dtype.type(IGNORE), pseudo_label), threshold


def kept_cross_entropy(logits: Tensor, target: np.ndarray, divisor: float) -> Tensor:
    """Return the cross entropy summed over the pixels that have a target (not 255), over ``divisor``.

    ``logits`` ``[B,K,...]``, ``target`` ``[B,...]``. Without a target it is 0 with zero gradient.
    """
    return weighted_cross_entropy(logits, target, np.float32(1), divisor)


def unsupervised_loss(logits: Tensor, pseudo_label: np.ndarray) -> Tensor:
    """Return (all pixels / kept pixels) * mean cross entropy over the kept pixels (``specs/u2pl.md`` section 7)."""
    kept = max(int((pseudo_label != IGNORE).sum()), 1)
    return kept_cross_entropy(logits, pseudo_label, kept**2 / pseudo_label.size)


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
    target = np.where(shown & (confidence >= np.float32(threshold)), label, label.dtype.type(IGNORE))
    return kept_cross_entropy(logits, target, max(int(shown.sum()), 1))


def certain_share(confidence: np.ndarray, ignore: np.ndarray, threshold: float) -> float:
    """Return the share of certain pixels among those that are no padding; arguments as in :func:`certain_loss`."""
    shown = ignore != IGNORE
    return float((shown & (confidence >= np.float32(threshold))).sum() / max(shown.sum(), 1))
