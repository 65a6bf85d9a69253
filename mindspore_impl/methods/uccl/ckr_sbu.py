"""UCCL's two losses between the weak and the strong view of an image; the PyTorch file of the same name mirrors this one.

    CKR = 1 - mean over pixels of cos(R_A(p)(F), R_A(p)(G)),   R_k(X) = sum over pixels p of class k of w_p X_p
    SBU = per image and uncertain class k: (T + sum over U_k of ce_p (e_p - 1)) / D_k,   D_k = sum over U_k of e_p + P - |U_k|

F and G are the decoder features of the weak (detached) and the strong view, A the weak arg-max, w a softmax of its logit over
the positions of a class, e_p = exp(-cos(F_p, G_p)), U_k the uncertain pixels of class k, T the sum of the cross entropies
ce_p of the strong logits against A over all valid pixels. These are the closed forms of ``specs/uccl.md`` sections 4.4 and
4.5: matrix products over one-hot masks, no loop over images and classes.

Everything is computed in NumPy, gradients included (MindSpore's operators take several times as long); masks, labels and the
weak features carry none. The functions therefore belong outside of compiled graphs.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from common.arrays import Size
from common.images.pytorch_resize import resize_as_pytorch
from mindspore_impl.losses import IGNORE
from mindspore_impl.pseudo_labels import certainty

NORM_FLOOR = 1e-6

ALL_PADDING = IGNORE - 0.01
"""Resized padding above this is 255 but for rounding; a source pixel that is none weighs at least 1 / (side - 1)."""


def ignored_at(ignore: np.ndarray, size: Size, rule: str) -> np.ndarray:
    """Return bool ``[B,h,w]``: low pixels all of whose source pixels are padding; ``ignore`` ``[B,H,W]`` is 255 there, else 0.

    ``rule``: ``equal`` leaves out those whose resized value is 255 but for rounding, as the released program does; ``above``
    does not.
    """
    # MindSpore's own operator rounds otherwise than the released program's.
    small = resize_as_pytorch(np.asarray(ignore, np.float32), size)
    return small == IGNORE if rule == "equal" else small > ALL_PADDING


def cosine(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Return the cosine along ``dim``, both norms at least 1e-6. Gradient goes to ``b`` only."""
    return _Cosine(a, dim)(b)


def position_weights(weak_logits: Tensor, ignored: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Return each class's softmax over its positions, ``[B,K,h*w]``, and its number of valid pixels, ``[B,K]``.

    ``weak_logits`` ``[B,K,h,w]``, ``ignored`` bool ``[B,h,w]``. Rows of classes without a valid pixel are 0.
    """
    scores = _flat(np.asarray(weak_logits))
    members = _members(scores.argmax(1), ~_flat(ignored), scores.shape[1])
    return _PositionWeights(members)(weak_logits), members.sum(2)


def class_means(feature: Tensor, weights: Tensor) -> Tensor:
    """Return R ``[B,K,C]``: the weighted mean of ``feature`` ``[B,C,h,w]`` over each class's positions."""
    return _ClassMeans()(feature, weights)


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
    weights, counts = position_weights(weak_logits, ignored)
    weak_means = _means(np.asarray(weak_feature), np.asarray(weights))
    similar = _weighted(counts, cosine(weak_means, class_means(strong_feature, weights), 2))
    if mode == "exclude":
        return (float(counts.sum()) - similar) / max(int(counts.sum()), 1)
    rows = cosine(scrambled_rows(np.asarray(weak_feature)), scrambled_rows(strong_feature), 2)
    return 1 - (similar + _weighted(_flat(ignored), rows)) / ignored.size


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
    valid, label = ~_flat(ignored), _flat(label).astype(np.int64)
    uncertain = _members(label, valid & (_flat(confidence) <= np.float32(threshold)), weak_logits.shape[1])
    return _SemanticUpdate(label, valid, uncertain, support)(similarity, strong_logits)


class _Cosine(nn.Cell):
    """Cosine with a constant, norms floored; one instance per use."""

    def __init__(self, constant: Tensor | np.ndarray, dim: int) -> None:
        super().__init__()
        self.constant, self.dim = constant, dim  # not its array alone: that is a view of memory which the tensor owns

    def construct(self, b: Tensor) -> Tensor:
        constant, values, dim = np.asarray(self.constant), np.asarray(b), self.dim
        norms = [np.sqrt((x * x).sum(dim, keepdims=True)) for x in (constant, values)]
        self.floored = norms[1] <= NORM_FLOOR
        self.norms = [np.maximum(norm, np.float32(NORM_FLOOR)) for norm in norms]
        self.cosine = (constant * values).sum(dim, keepdims=True) / (self.norms[0] * self.norms[1])
        return ms.Tensor(self.cosine.squeeze(dim))

    def bprop(self, b: Tensor, out: Tensor, upstream: Tensor) -> tuple[Tensor]:
        upstream = np.expand_dims(upstream.asnumpy(), self.dim)
        gradient = np.asarray(self.constant) * (upstream / (self.norms[0] * self.norms[1]))
        along = np.where(self.floored, np.float32(0), upstream * self.cosine / self.norms[1] ** 2)
        gradient -= np.asarray(b) * along
        return (ms.Tensor(gradient),)


class _PositionWeights(nn.Cell):
    """Softmax over the positions of each class; one instance per use."""

    def __init__(self, members: np.ndarray) -> None:
        super().__init__()
        self.members = members

    def construct(self, logits: Tensor) -> Tensor:
        scores = np.where(self.members, _flat(np.asarray(logits)), np.float32(-np.inf))
        peaks = scores.max(2, keepdims=True)
        weights = np.exp(scores - np.where(np.isfinite(peaks), peaks, np.float32(0)))
        self.weights = weights / np.maximum(weights.sum(2, keepdims=True), np.float32(1e-30))
        return ms.Tensor(self.weights)

    def bprop(self, logits: Tensor, out: Tensor, upstream: Tensor) -> tuple[Tensor]:
        weighted = self.weights * upstream.asnumpy()
        gradient = weighted - self.weights * weighted.sum(2, keepdims=True)
        return (ms.Tensor(gradient.reshape(logits.shape)),)


class _ClassMeans(nn.Cell):
    """Matrix product of weights and features."""

    def construct(self, feature: Tensor, weights: Tensor) -> Tensor:
        return ms.Tensor(_means(np.asarray(feature), np.asarray(weights)))

    def bprop(self, feature: Tensor, weights: Tensor, out: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
        upstream = upstream.asnumpy()
        of_feature = upstream.swapaxes(1, 2) @ np.asarray(weights)
        return ms.Tensor(of_feature.reshape(feature.shape)), ms.Tensor(upstream @ _flat(np.asarray(feature)))


class _SemanticUpdate(nn.Cell):
    """SBU with its gradients; one instance per loss."""

    def __init__(self, label: np.ndarray, valid: np.ndarray, uncertain: np.ndarray, support: str) -> None:
        super().__init__()
        self.label, self.valid, self.uncertain, self.everywhere = label, valid, uncertain, support == "all"

    def construct(self, similarity: Tensor, logits: Tensor) -> Tensor:
        masks, label, counts = self.uncertain.astype(np.float32), self.label[:, None], self.uncertain.sum(2)
        probabilities, losses = _softmax(_flat(np.asarray(logits)), label)
        losses = losses * self.valid
        weights = np.exp(-_flat(np.asarray(similarity)))
        totals, sums = np.moveaxis(masks @ np.stack([weights, losses * (weights - self.everywhere)], 2), 2, 0)
        if self.everywhere:
            totals, sums = totals + (masks.shape[2] - counts), sums + losses.sum(1, keepdims=True)
        totals = np.maximum(totals, np.float32(NORM_FLOOR))
        present = counts > 0
        shares = present / np.maximum(present.sum(1, keepdims=True), 1) / len(counts) / totals  # d loss / d sums
        value = (shares * sums).sum()
        own, mean = ((masks * part[:, :, None]).sum(1) for part in (shares, shares * sums / totals))
        self.of_similarity = -weights * (own * losses - mean)
        of_losses = own * (weights - self.everywhere) + self.everywhere * shares.sum(1, keepdims=True)
        np.put_along_axis(probabilities, label, np.take_along_axis(probabilities, label, 1) - 1, 1)
        self.of_logits = probabilities * (of_losses * self.valid)[:, None]
        return ms.Tensor(np.float32(value))

    def bprop(self, similarity: Tensor, logits: Tensor, out: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
        scale = np.float32(upstream.asnumpy())
        return tuple(
            ms.Tensor((gradient * scale).astype(np.float32).reshape(value.shape))
            for gradient, value in ((self.of_similarity, similarity), (self.of_logits, logits))
        )


def _softmax(scores: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities ``[B,K,P]`` of ``scores`` and the cross entropies ``[B,P]`` against ``label`` ``[B,1,P]``."""
    shifted = scores - scores.max(1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(1, keepdims=True)
    return exponentials / total, (np.log(total) - np.take_along_axis(shifted, label, 1))[:, 0]


def _weighted(weights: np.ndarray, values: Tensor) -> Tensor:
    return (ms.Tensor(weights.astype(np.float32)) * values).sum()


def _means(feature: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights @ _flat(feature).swapaxes(1, 2)


def _flat(x: np.ndarray) -> np.ndarray:
    """Join the last two axes."""
    return x.reshape(*x.shape[:-2], -1)


def _members(label: np.ndarray, chosen: np.ndarray, classes: int) -> np.ndarray:
    """Return bool ``[B,K,P]``: which of the ``chosen`` pixels, bool ``[B,P]``, have which ``label`` ``[B,P]``."""
    return (label[:, None] == np.arange(classes).reshape(1, classes, 1)) & chosen[:, None]
