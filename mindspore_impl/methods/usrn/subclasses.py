"""USRN's pseudo-labels: subclass self-training, entropy gate, regularised classes; the PyTorch file mirrors this one.

Source: ``specs/usrn.md`` sections 6.3 and 6.4. p and q are the probabilities of classes and subclasses of the weak view:

    s* = argmax q                             kept where max q > threshold
    gate open  <=>  H(q) > H(p)               entropies over log2 of the number of channels; a tie closes the gate
    m_i = 1 where open, [i = parent(s*)] where closed
    y* = argmax m p                           kept where max m p > threshold

Nothing here but the last function's logits carries a gradient, so everything is NumPy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from mindspore import Tensor

from common.arrays import IGNORE
from mindspore_impl.pseudo_labels import kept_cross_entropy


@dataclass(frozen=True)
class PseudoLabels:
    """What the weak view decides, all ``[B,h,w]`` but ``class_mask`` bool ``[B,C,h,w]``; ``kept_*`` are labels with 255."""

    subclass: np.ndarray
    subclass_confidence: np.ndarray
    kept_subclass: np.ndarray
    parent: np.ndarray
    entropy: np.ndarray
    subclass_entropy: np.ndarray
    gate_open: np.ndarray
    class_mask: np.ndarray
    label: np.ndarray
    confidence: np.ndarray
    kept_label: np.ndarray


def _softmax(logits: Tensor) -> np.ndarray:
    """Return the probabilities of logits ``[B,n,h,w]``."""
    logits = np.asarray(logits, np.float32)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def normalised_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return ``[B,h,w]`` entropies of ``[B,n,h,w]`` probabilities in 0..1 (base n, 1e-30 inside the logarithm)."""
    return entropy_terms(probabilities).sum(1)


def entropy_terms(probabilities: np.ndarray) -> np.ndarray:
    """Return every channel's part of :func:`normalised_entropy`."""
    scale = np.float32(math.log2(probabilities.shape[1]))
    return -(probabilities * np.log2(probabilities + np.float32(1e-30))) / scale


def pseudo_labels(logits: Tensor, subclass_logits: Tensor, parents: np.ndarray, threshold: float) -> PseudoLabels:
    """Return the labels of the weak view's logits ``[B,C,h,w]`` and ``[B,K,h,w]``.

    ``parents`` uint8 ``[256]`` maps a subclass to its class (:func:`common.methods.usrn.subclasses.parent_table`).
    """
    p, q = _softmax(logits), _softmax(subclass_logits)
    subclass_confidence, subclass = q.max(1), q.argmax(1)
    parent = parents[subclass].astype(np.int64)
    entropy, subclass_entropy = normalised_entropy(p), normalised_entropy(q)
    gate_open = subclass_entropy > entropy
    own = np.arange(p.shape[1]).reshape(1, -1, 1, 1) == parent[:, None]
    class_mask = gate_open[:, None] | own
    regularised = p * class_mask
    confidence, label = regularised.max(1), regularised.argmax(1)
    return PseudoLabels(
        subclass=subclass,
        subclass_confidence=subclass_confidence,
        kept_subclass=np.where(subclass_confidence > threshold, subclass, IGNORE),
        parent=parent,
        entropy=entropy,
        subclass_entropy=subclass_entropy,
        gate_open=gate_open,
        class_mask=class_mask,
        label=label,
        confidence=confidence,
        kept_label=np.where(confidence > threshold, label, IGNORE),
    )


def self_training_loss(logits: Tensor, kept: np.ndarray) -> Tensor:
    """Return the cross entropy over the kept pixels divided by the number of all pixels; ``kept`` ``[B,h,w]`` with 255."""
    return kept_cross_entropy(logits, kept, kept.size)
