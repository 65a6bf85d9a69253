"""UCCL's two losses between the weak and the strong view of an image; the MindSpore file of the same name mirrors this one.

    CKR = 1 - mean over pixels of cos(R_A(p)(F), R_A(p)(G)),   R_k(X) = sum over pixels p of class k of w_p X_p
    SBU = per image and uncertain class k: (T + sum over U_k of ce_p (e_p - 1)) / D_k,   D_k = sum over U_k of e_p + P - |U_k|

F and G are the decoder features of the weak (detached) and the strong view, A the weak arg-max, w a softmax of its logit over
the positions of a class, e_p = exp(-cos(F_p, G_p)), U_k the uncertain pixels of class k, T the sum of the cross entropies
ce_p of the strong logits against A over all valid pixels. These are closed forms of the authors'
``calculate_region`` and ``cal_loss_divergence`` (``UCCL.py``): matrix products over one-hot masks, no loop over
images and classes, nothing that depends on a value on the host.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.arrays import Size
from torch_impl.losses import IGNORE
from torch_impl.pseudo_labels import arg_max, certainty
from torch_impl.resize import resize

NORM_FLOOR = 1e-6

ALL_PADDING = IGNORE - 0.01
"""Resized padding above this is 255 but for rounding; a source pixel that is none weighs at least 1 / (side - 1)."""


def ignored_at(ignore: Tensor, size: Size, rule: str) -> Tensor:
    """Return bool ``[B,h,w]``: low pixels all of whose source pixels are padding; ``ignore`` ``[B,H,W]`` is 255 there, else 0.

    ``rule``: ``equal`` leaves out those whose resized value is 255 but for rounding, as the released program does; ``above``
    does not.
    """
    small = resize(ignore.float().unsqueeze(1), size).squeeze(1)
    return small == IGNORE if rule == "equal" else small > ALL_PADDING


def cosine(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Return the cosine along ``dim``, both norms at least 1e-6."""
    norms = torch.linalg.vector_norm(a, dim=dim).clamp(min=NORM_FLOOR)
    return (a * b).sum(dim) / (norms * torch.linalg.vector_norm(b, dim=dim).clamp(min=NORM_FLOOR))


def position_weights(weak_logits: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
    """Return each class's softmax over its positions, ``[B,K,h*w]``, and its number of valid pixels, ``[B,K]``.

    ``weak_logits`` ``[B,K,h,w]``, ``ignored`` bool ``[B,h,w]``. Rows of classes without a valid pixel are 0.
    """
    scores = weak_logits.flatten(2)
    members = _members(arg_max(scores, 1), ~ignored.flatten(1), scores.shape[1])
    peaks = scores.detach().masked_fill(~members, -torch.inf).amax(2, keepdim=True)
    exponents = torch.where(members, scores - peaks, -torch.inf)
    weights = exponents.exp()
    return weights / weights.sum(2, keepdim=True).clamp(min=1e-30), members.sum(2)


def class_means(feature: Tensor, weights: Tensor) -> Tensor:
    """Return R ``[B,K,C]``: the weighted mean of ``feature`` ``[B,C,h,w]`` over each class's positions."""
    return weights @ feature.flatten(2).mT


def scrambled_rows(feature: Tensor) -> Tensor:
    """Return ``[B,h*w,C]``: row p holds entries p*C .. p*C+C-1 of the image's buffer ``[C,h,w]``.

    The released program takes these for the features of ignored pixels: it forgets to move the channel axis.
    """
    return feature.reshape(len(feature), -1, feature.shape[1])


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
    weights, counts = position_weights(weak_logits.detach() if detach_weights else weak_logits, ignored)
    weak_means = class_means(weak_feature.detach(), weights.detach())
    distance = (counts * (1 - cosine(weak_means, class_means(strong_feature, weights), 2))).sum()
    if mode == "exclude":
        return distance / counts.sum().clamp(min=1)
    rows = 1 - cosine(scrambled_rows(weak_feature.detach()), scrambled_rows(strong_feature), 2)
    return (distance + (rows * ignored.flatten(1)).sum()) / ignored.numel()


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
    valid = ~ignored.flatten(1)
    uncertain = _members(label.flatten(1).long(), valid & (confidence.flatten(1) <= threshold), weak_logits.shape[1])
    counts = uncertain.sum(2)
    losses = F.cross_entropy(strong_logits, label.long(), reduction="none").flatten(1) * valid
    weights = torch.exp(-similarity.flatten(1))
    if support == "all":
        inside = torch.stack([weights, losses * (weights - 1)], 2)
        outside = torch.stack([valid.shape[1] - counts, losses.sum(1, keepdim=True).expand_as(counts)], 2)
    else:
        inside, outside = torch.stack([weights, losses * weights], 2), 0
    totals, sums = (uncertain.to(inside.dtype) @ inside + outside).unbind(2)
    present = counts > 0
    per_class = present * sums / totals.clamp(min=NORM_FLOOR)
    return (per_class.sum(1) / present.sum(1).clamp(min=1)).mean()


def _members(label: Tensor, chosen: Tensor, classes: int) -> Tensor:
    """Return bool ``[B,K,P]``: which of the ``chosen`` pixels, bool ``[B,P]``, have which ``label`` ``[B,P]``."""
    index = torch.arange(classes, device=label.device).view(1, classes, 1)
    return (label.unsqueeze(1) == index) & chosen.unsqueeze(1)
