"""USRN's pseudo-labels: subclass self-training, entropy gate, regularised classes; the PyTorch file mirrors this one.

Source: the authors' ``models/model.py``. p and q are the probabilities of classes and subclasses of the weak view:

    s* = argmax q                             kept where max q > threshold
    gate open  <=>  H(q) > H(p)               entropies over log2 of the number of channels; a tie closes the gate
    m_i = 1 where open, [i = parent(s*)] where closed
    y* = argmax m p                           kept where max m p > threshold
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor, ops

from common.arrays import IGNORE
from mindspore_impl.losses import one_hot
from mindspore_impl.pseudo_labels import kept_cross_entropy


@dataclass(frozen=True)
class PseudoLabels:
    """What the weak view decides, all ``[B,h,w]`` but ``class_mask`` bool ``[B,C,h,w]``; ``kept_*`` are labels with 255."""

    subclass: Tensor
    subclass_confidence: Tensor
    kept_subclass: Tensor
    parent: Tensor
    entropy: Tensor
    subclass_entropy: Tensor
    gate_open: Tensor
    class_mask: Tensor
    label: Tensor
    confidence: Tensor
    kept_label: Tensor


def normalised_entropy(probabilities: Tensor) -> Tensor:
    """Return ``[B,h,w]`` entropies of ``[B,n,h,w]`` probabilities in 0..1 (base n, 1e-30 inside the logarithm)."""
    return entropy_terms(probabilities).sum(1)


def entropy_terms(probabilities: Tensor) -> Tensor:
    """Return every channel's part of :func:`normalised_entropy`."""
    near_one = ops.log1p(probabilities - 1)  # there the operator `log` is off by 3e-8
    logarithm = ops.where(probabilities > 0.5, near_one, ops.log(probabilities + 1e-30))
    return -(probabilities * logarithm) / math.log(probabilities.shape[1])


def pseudo_labels(logits: Tensor, subclass_logits: Tensor, parents: Tensor, threshold: float) -> PseudoLabels:
    """Return the labels of the weak view's logits ``[B,C,h,w]`` and ``[B,K,h,w]``.

    ``parents`` uint8 ``[256]`` maps a subclass to its class (:func:`common.methods.usrn.subclasses.parent_table`).
    """
    p, q = ops.softmax(logits.astype(ms.float32), 1), ops.softmax(subclass_logits.astype(ms.float32), 1)
    subclass_confidence, subclass = ops.max(q, 1)
    parent = ops.gather(parents.astype(ms.int32), subclass, 0)
    entropy, subclass_entropy = normalised_entropy(p), normalised_entropy(q)
    gate_open = subclass_entropy > entropy
    class_mask = gate_open.expand_dims(1) | one_hot(parent, p.shape[1])
    confidence, label = ops.max(p * class_mask.astype(p.dtype), 1)
    return PseudoLabels(
        subclass=subclass,
        subclass_confidence=subclass_confidence,
        kept_subclass=subclass.masked_fill(~(subclass_confidence > threshold), IGNORE),
        parent=parent,
        entropy=entropy,
        subclass_entropy=subclass_entropy,
        gate_open=gate_open,
        class_mask=class_mask,
        label=label,
        confidence=confidence,
        kept_label=label.masked_fill(~(confidence > threshold), IGNORE),
    )


def self_training_loss(logits: Tensor, kept: Tensor) -> Tensor:
    """Return the cross entropy over the kept pixels divided by the number of all pixels; ``kept`` ``[B,h,w]`` with 255."""
    return kept_cross_entropy(logits, kept, kept.size)
