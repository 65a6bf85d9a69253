"""UCCL's two losses between the weak and the strong view of an image; the PyTorch file of the same name mirrors this one.

    CKR = 1 - mean over pixels of cos(R_A(p)(F), R_A(p)(G)),   R_k(X) = sum over pixels p of class k of w_p X_p
    SBU = per image and uncertain class k: (T + sum over U_k of ce_p (e_p - 1)) / D_k,   D_k = sum over U_k of e_p + P - |U_k|

F and G are the decoder features of the weak (detached) and the strong view, A the weak arg-max, w a softmax of its logit over
the positions of a class, e_p = exp(-cos(F_p, G_p)), U_k the uncertain pixels of class k, T the sum of the cross entropies
ce_p of the strong logits against A over all valid pixels. These are closed forms of the authors'
``calculate_region`` and ``cal_loss_divergence`` (``UCCL.py``): matrix products over one-hot masks, no loop over
images and classes, nothing that depends on a value on the host.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

from common.arrays import Size
from common.images.pytorch_resize import corners_of_white
from mindspore_impl.losses import IGNORE, one_hot, pixel_losses
from mindspore_impl.pseudo_labels import arg_max, certainty
from mindspore_impl.resize import resize

NORM_FLOOR = 1e-6

ALL_PADDING = IGNORE - 0.01
"""Resized padding above this is 255 but for rounding; a source pixel that is none weighs at least 1 / (side - 1)."""


def ignored_at(ignore: Tensor, size: Size, rule: str) -> Tensor:
    """Return bool ``[B,h,w]``: low pixels all of whose source pixels are padding; ``ignore`` ``[B,H,W]`` is 255 there, else 0.

    ``rule``: ``equal`` leaves out those whose resized value is 255 but for rounding, as the released program does; ``above``
    does not.
    """
    if rule == "equal":  # MindSpore's own operator rounds otherwise than the released program's
        return _equal(ignore == IGNORE, *map(ms.Tensor, corners_of_white(ignore.shape[1:], size)))
    return resize(ignore.astype(ms.float32).expand_dims(1), size).squeeze(1) > ALL_PADDING


@ms.jit
def _equal(white: Tensor, rows: Tensor, columns: Tensor, stays: Tensor) -> Tensor:
    """Return bool ``[B,h,w]`` by the four source pixels of each; see :func:`common.images.pytorch_resize.corners_of_white`."""
    pattern = 0
    for row in range(2):
        for column in range(2):
            corner = ops.gather(ops.gather(white.astype(ms.int32), rows[row], 1), columns[column], 2)
            pattern = 2 * pattern + corner
    return ops.gather_elements(stays, 0, pattern)


@ms.jit
def cosine(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Return the cosine along ``dim``, both norms at least 1e-6."""
    return (a * b).sum(dim) / (_norm(a, dim) * _norm(b, dim))


def _norm(x: Tensor, dim: int) -> Tensor:
    """Return norms along ``dim``, at least 1e-6; one below that has no gradient, never NaN."""
    square = (x * x).sum(dim)
    large = square > NORM_FLOOR**2
    return ops.where(large, ops.sqrt(ops.where(large, square, 1.0)), NORM_FLOOR)


def position_weights(weak_logits: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
    """Return each class's softmax over its positions, ``[B,K,h*w]``, and its number of valid pixels, ``[B,K]``.

    ``weak_logits`` ``[B,K,h,w]``, ``ignored`` bool ``[B,h,w]``. Rows of classes without a valid pixel are 0.
    """
    scores = _flat(weak_logits)
    members = _members(arg_max(scores, 1), ~_flat(ignored), scores.shape[1])
    peaks = ops.amax(ops.stop_gradient(scores).masked_fill(~members, -1e30), 2, True)
    members = members.astype(scores.dtype)
    weights = ops.exp((scores - peaks) * members) * members
    return weights / weights.sum(2, keepdims=True).clamp(min=1e-30), members.sum(2)


def class_means(feature: Tensor, weights: Tensor) -> Tensor:
    """Return R ``[B,K,C]``: the weighted mean of ``feature`` ``[B,C,h,w]`` over each class's positions."""
    return ops.matmul(weights, _flat(feature).swapaxes(1, 2))


def scrambled_rows(feature: Tensor) -> Tensor:
    """Return ``[B,h*w,C]``: row p holds entries p*C .. p*C+C-1 of the image's buffer ``[C,h,w]``.

    The released program takes these for the features of ignored pixels: it forgets to move the channel axis.
    """
    return feature.reshape(len(feature), -1, feature.shape[1])


@ms.jit
def class_knowledge(
    weak_feature: Tensor,
    strong_feature: Tensor,
    weak_logits: Tensor,
    ignored: Tensor,
    mode: str = "rows",
    detach_weights: bool = False,
) -> Tensor:
    """Return CKR of one view; gradient goes to ``strong_feature`` and, without ``detach_weights``, to ``weak_logits``.

    Features ``[B,C,h,w]``, logits ``[B,K,h,w]``, ``ignored`` bool ``[B,h,w]``. ``mode``: ignored pixels count with their
    :func:`scrambled_rows` (``rows``) or the mean runs over the valid pixels only (``exclude``; 0 without any).
    """
    weights, counts = position_weights(ops.stop_gradient(weak_logits) if detach_weights else weak_logits, ignored)
    weak_means = class_means(ops.stop_gradient(weak_feature), ops.stop_gradient(weights))
    distance = (counts * (1 - cosine(weak_means, class_means(strong_feature, weights), 2))).sum()
    if mode == "exclude":
        return distance / counts.sum().clamp(min=1)
    rows = 1 - cosine(scrambled_rows(ops.stop_gradient(weak_feature)), scrambled_rows(strong_feature), 2)
    return (distance + (rows * _flat(ignored).astype(rows.dtype)).sum()) / ignored.size


@ms.jit
def semantic_update(
    similarity: Tensor,
    weak_logits: Tensor,
    strong_logits: Tensor,
    ignored: Tensor,
    threshold: float,
    support: str = "all",
) -> Tensor:
    """Return SBU of one view; gradient goes to ``similarity`` and ``strong_logits``, none where no pixel is uncertain.

    ``similarity`` ``[B,h,w]`` of the views' features, logits ``[B,K,h,w]``, ``ignored`` bool ``[B,h,w]``. A valid pixel is uncertain
    if its weak confidence is at most ``threshold``. ``support``: the weights of a class run over all pixels of the image
    (``all``) or over its uncertain ones (``uncertain``).
    """
    confidence, label = certainty(weak_logits)
    valid = ~_flat(ignored)
    uncertain = _members(_flat(label), valid & (_flat(confidence) <= threshold), weak_logits.shape[1])
    uncertain = uncertain.astype(similarity.dtype)
    counts = uncertain.sum(2)
    losses = _flat(pixel_losses(strong_logits, label)) * valid.astype(similarity.dtype)
    weights = ops.exp(-_flat(similarity))
    if support == "all":
        inside = ops.stack([weights, losses * (weights - 1)], 2)
        outside = ops.stack([valid.shape[1] - counts, ops.broadcast_to(losses.sum(1, keepdims=True), counts.shape)], 2)
    else:
        inside, outside = ops.stack([weights, losses * weights], 2), 0
    totals, sums = ops.unbind(ops.matmul(uncertain, inside) + outside, 2)
    present = (counts > 0).astype(similarity.dtype)
    per_class = present * sums / totals.clamp(min=NORM_FLOOR)
    return (per_class.sum(1) / present.sum(1).clamp(min=1)).mean()


def _flat(x: Tensor) -> Tensor:
    """Join the last two axes."""
    return x.reshape(x.shape[:-2] + (-1,))


def _members(label: Tensor, chosen: Tensor, classes: int) -> Tensor:
    """Return bool ``[B,K,P]``: which of the ``chosen`` pixels, bool ``[B,P]``, have which ``label`` ``[B,P]``."""
    return one_hot(label, classes) & chosen.expand_dims(1)
