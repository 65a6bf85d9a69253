"""PCR's prototype predictor and the upkeep of prototypes; the PyTorch file of the same name mirrors this one.

    s[n,k,m] = <f_n/|f_n|, P[k,m]/|P[k,m]|>,   logit[n,k] = max_m s[n,k,m] / T

Features are resized to the image before they are normalised. In training that is done at the selected pixels only; for
whole maps <f,P> is resized instead of f, which is the same sum in another order, and |f| comes from the inner products of
neighbouring positions: no resized map of all channels is ever made. Source: ``specs/pcr.md`` sections 3.2-3.6 and 8.

Everything is computed in NumPy, with gradients in closed form, and belongs outside of compiled graphs; arguments may be
tensors or arrays. What is differentiated returns a Tensor, what carries no gradient an array.
"""

from __future__ import annotations

import numpy as np
from mindspore import Tensor

from common.arrays import IGNORE, Size
from common.images.resize import neighbours
from mindspore_impl.known_gradient import KnownResult


def pixel_features(features: Tensor, pixels: np.ndarray, size: Size) -> Tensor:
    """Return rows ``[B*n,C]`` of ``features`` ``[B,C,h,w]`` resized to ``size``, at flat ``pixels`` ``[n]`` of every image."""
    maps = np.asarray(features)
    batch, width = maps.shape[:2]
    positions, weights = neighbours(pixels, size, maps.shape[2:])
    corners = maps.reshape(batch, width, -1)[:, :, positions]
    rows = np.einsum("bcrn,rn->bnc", corners, weights).reshape(-1, width)

    def gradient(upstream: np.ndarray) -> np.ndarray:
        order = np.argsort(positions, axis=None, kind="stable")
        place, first = np.unique(positions.ravel()[order], return_index=True)
        result = np.zeros((batch, width, maps[0, 0].size), np.float32)
        for image, part in enumerate(upstream.reshape(batch, -1, width)):
            spread = (weights[:, :, None] * part).reshape(-1, width)[order]
            result[image][:, place] = np.add.reduceat(spread, first).T
        return result.reshape(maps.shape)

    return KnownResult(rows, gradient)(features)


def pixel_labels(labels: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the labels ``[B*n]`` of ``[B,H,W]`` at the same pixels, in the same order."""
    return labels.reshape(len(labels), -1)[:, pixels].ravel()


def prototype_sums(
    features: np.ndarray, labels: np.ndarray, match: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return what each prototype's pixels sum up to, ``[K,M,C]``, and how many there are, int64 ``[K,M]``.

    Row n of ``features`` ``[N,C]`` belongs to prototype ``match[n, labels[n]]`` of its label; 255 counts nowhere. ``shape`` is
    (K, M). Sums and counts of several processes add up.
    """
    counted = labels != IGNORE
    features, labels = np.asarray(features)[counted], labels[counted].astype(np.int64)
    index = labels * shape[1] + np.take_along_axis(match[counted], labels[:, None], 1)[:, 0]
    members = (np.arange(shape[0] * shape[1])[:, None] == index).astype(np.float32)
    return (members @ features).reshape(*shape, -1), np.bincount(index, minlength=shape[0] * shape[1]).reshape(shape)


def updated_prototypes(prototypes: np.ndarray, sums: np.ndarray, counts: np.ndarray, momentum: float) -> np.ndarray:
    """Return momentum * P + (1 - momentum) * sums / counts where there are counts, else P, ``[K,M,C]``."""
    means = sums / np.maximum(counts, 1).astype(np.float32)[:, :, None]
    moved = np.float32(momentum) * prototypes + np.float32(1 - momentum) * means
    return np.where(counts[:, :, None] > 0, moved, prototypes)
