"""UCCL's two losses between the weak and the strong view of an image; the PyTorch file of the same name mirrors this one.

    CKR = 1 - mean over pixels of cos(R_A(p)(F), R_A(p)(G)),   R_k(X) = sum over pixels p of class k of w_p X_p
    SBU = per image and uncertain class k: (T + sum over U_k of ce_p (e_p - 1)) / D_k,   D_k = sum over U_k of e_p + P - |U_k|

F and G are the decoder features of the weak (detached) and the strong view, A the weak arg-max, w a softmax of its logit over
the positions of a class, e_p = exp(-cos(F_p, G_p)), U_k the uncertain pixels of class k, T the sum of the cross entropies
ce_p of the strong logits against A over all valid pixels. These are the closed forms of ``specs/uccl.md`` sections 4.4 and
4.5: matrix products over one-hot masks, no loop over images and classes.

Masks and labels, which carry no gradient, are NumPy here.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from common.predictor import Size
from mindspore_impl.consistency import certainty
from mindspore_impl.layers import resize
from mindspore_impl.losses import IGNORE

NORM_FLOOR = 1e-6


def ignored_at(ignore: np.ndarray, size: Size) -> np.ndarray:
    """Return bool ``[B,h,w]``: low pixels all of whose source pixels are padding; ``ignore`` ``[B,H,W]`` is 255 there, else 0."""
    return resize(ms.Tensor(np.asarray(ignore, np.float32)[:, None]), size).asnumpy()[:, 0] == IGNORE


def cosine(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Return the cosine along ``dim``, both norms at least 1e-6."""
    norms = [ops.sqrt(ops.maximum((x * x).sum(dim), NORM_FLOOR**2)) for x in (a, b)]
    return (a * b).sum(dim) / (norms[0] * norms[1])


def position_weights(weak_logits: Tensor, ignored: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Return each class's softmax over its positions, ``[B,K,h*w]``, and its number of valid pixels, ``[B,K]``.

    ``weak_logits`` ``[B,K,h,w]``, ``ignored`` bool ``[B,h,w]``. Rows of classes without a valid pixel are 0.
    """
    scores = _flat(weak_logits)
    values = np.asarray(weak_logits).reshape(scores.shape)
    members = _members(values.argmax(1), ~_flat_mask(ignored), scores.shape[1])
    peaks = np.where(members, values, -np.inf).max(2, keepdims=True)
    peaks = np.broadcast_to(np.where(np.isfinite(peaks), peaks, 0), values.shape)
    mask = ms.Tensor(members.astype(np.float32))
    weights = ops.exp((scores - ms.Tensor(peaks)) * mask) * mask
    return weights / ops.maximum(weights.sum(2, keepdims=True), 1e-30), members.sum(2)


def class_means(feature: Tensor, weights: Tensor) -> Tensor:
    """Return R ``[B,K,C]``: the weighted mean of ``feature`` ``[B,C,h,w]`` over each class's positions."""
    return ops.matmul(weights, _flat(feature).swapaxes(1, 2))


def scrambled_rows(feature: Tensor) -> Tensor:
    """Return ``[B,h*w,C]``: row p holds entries p*C .. p*C+C-1 of the image's buffer ``[C,h,w]``.

    The released program takes these for the features of ignored pixels: it forgets to move the channel axis.
    """
    return feature.reshape(feature.shape[0], -1, feature.shape[1])


def class_knowledge(
    weak_feature: Tensor, strong_feature: Tensor, weak_logits: Tensor, ignored: np.ndarray, mode: str = "rows"
) -> Tensor:
    """Return CKR of one view; gradient goes to ``strong_feature`` and ``weak_logits``.

    Features ``[B,C,h,w]``, logits ``[B,K,h,w]``, ``ignored`` bool ``[B,h,w]``. ``mode``: ignored pixels count with their
    :func:`scrambled_rows` (``rows``) or the mean runs over the valid pixels only (``exclude``; 0 without any).
    """
    weak_feature = ops.stop_gradient(weak_feature)
    weights, counts = position_weights(weak_logits, ignored)
    weak_means = class_means(weak_feature, ops.stop_gradient(weights))
    distance = 1 - cosine(weak_means, class_means(strong_feature, weights), 2)
    distance = (ms.Tensor(counts.astype(np.float32)) * distance).sum()
    if mode == "exclude":
        return distance / max(int(counts.sum()), 1)
    rows = 1 - cosine(scrambled_rows(weak_feature), scrambled_rows(strong_feature), 2)
    return (distance + (rows * ms.Tensor(_flat_mask(ignored).astype(np.float32))).sum()) / ignored.size


def semantic_update(
    similarity: Tensor,
    weak_logits: Tensor,
    strong_logits: Tensor,
    ignored: np.ndarray,
    threshold: float,
    support: str = "all",
) -> Tensor:
    """Return SBU of one view; gradient goes to ``similarity`` and ``strong_logits``, none where no pixel is uncertain.

    ``similarity`` ``[B,h,w]`` of the views' features, logits ``[B,K,h,w]``, ``ignored`` bool ``[B,h,w]``. A valid pixel is uncertain
    if its weak confidence is at most ``threshold``. ``support``: the weights of a class run over all pixels of the image
    (``all``) or over its uncertain ones (``uncertain``).
    """
    confidence, label = certainty(weak_logits)
    valid, label = ~_flat_mask(ignored), _flat_mask(label)
    chosen = valid & (_flat_mask(confidence) <= np.float32(threshold))
    uncertain = _members(label, chosen, weak_logits.shape[1])
    counts = uncertain.sum(2)
    losses = _cross_entropies(_flat(strong_logits), label) * ms.Tensor(valid.astype(np.float32))
    weights = ops.exp(-similarity.reshape(*valid.shape))
    masks = ms.Tensor(uncertain.astype(np.float32))
    if support == "all":
        inside = ops.stack([weights, losses * (weights - 1)], 2)
        outside = ms.Tensor((valid.shape[1] - counts).astype(np.float32))
        spread = ops.broadcast_to(losses.sum(1, keepdims=True), counts.shape)
    else:
        inside = ops.stack([weights, losses * weights], 2)
        outside = spread = 0.0
    joined = ops.matmul(masks, inside)
    totals, sums = joined[:, :, 0] + outside, joined[:, :, 1] + spread
    present = counts > 0
    shares = present / np.maximum(present.sum(1, keepdims=True), 1) / len(counts)
    return (ms.Tensor(shares.astype(np.float32)) * sums / ops.maximum(totals, NORM_FLOOR)).sum()


def _flat(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1], -1)


def _flat_mask(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    return mask.reshape(len(mask), -1)


def _cross_entropies(scores: Tensor, label: np.ndarray) -> Tensor:
    """Return ``[B,P]`` cross entropies of ``scores`` ``[B,K,P]`` against ``label`` ``[B,P]``."""
    peaks = np.broadcast_to(np.asarray(scores).max(1, keepdims=True), scores.shape)
    shifted = scores - ms.Tensor(peaks)
    chosen = ms.Tensor(_members(label, np.ones(label.shape, bool), scores.shape[1]).astype(np.float32))
    return ops.log(ops.exp(shifted).sum(1)) - (shifted * chosen).sum(1)


def _members(label: np.ndarray, chosen: np.ndarray, classes: int) -> np.ndarray:
    """Return bool ``[B,K,P]``: which of the ``chosen`` pixels, bool ``[B,P]``, have which ``label`` ``[B,P]``."""
    return (label[:, None] == np.arange(classes).reshape(1, classes, 1)) & chosen[:, None]
