"""Pixel losses in NumPy with their gradients in closed form: a witness that no framework has a part in.

Logits ``[B,K,H,W]``, labels uint8 ``[B,H,W]`` with 255 = ignore; every loss returns its value and its gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

IGNORE = 255

Loss = tuple[float, np.ndarray]


def cross_entropy(logits: np.ndarray, labels: np.ndarray, class_weights: Sequence[float] = ()) -> Loss:
    """Return the mean over pixels with a label, weighted by the weight of each one's class."""
    weights = (np.array(class_weights) if class_weights else np.ones(logits.shape[1]))[_classes(labels)[:, 0]]
    return weighted_cross_entropy(logits, labels, weights, (weights * (labels != IGNORE)).sum() or 1)


def weighted_cross_entropy(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray, divisor: float) -> Loss:
    """Return the sum over pixels with a label of weight ``[B,H,W]`` times cross entropy, over ``divisor``."""
    probabilities, classes = softmax(logits), _classes(labels)
    shares = (weights * (labels != IGNORE) / divisor)[:, None]
    value = -(shares * np.log(np.take_along_axis(probabilities, classes, 1))).sum()
    np.put_along_axis(probabilities, classes, np.take_along_axis(probabilities, classes, 1) - 1, 1)
    return float(value), probabilities * shares


def reverse_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> Loss:
    """Return the mean over pixels with a label of -log(1e-4) times the probability of the other classes."""
    probabilities, classes = softmax(logits), _classes(labels)
    label_probabilities = np.take_along_axis(probabilities, classes, 1)
    valid = (labels != IGNORE)[:, None]
    scale = -np.log(1e-4) * valid / max(valid.sum(), 1)
    gradient = probabilities * label_probabilities
    np.put_along_axis(gradient, classes, np.take_along_axis(gradient, classes, 1) - label_probabilities, 1)
    return float((scale * (1 - label_probabilities)).sum()), scale * gradient


def resized_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> Loss:
    """Return the mean cross entropy of logits resized to the labels' size, bilinearly and with aligned corners."""
    down, across = (_matrix(new, old) for new, old in zip(labels.shape[1:], logits.shape[2:]))
    value, gradient = cross_entropy(down @ logits @ across.T, labels)
    return value, down.T @ gradient @ across


def ohem_labels(logits: np.ndarray, labels: np.ndarray, thresh: float, min_kept: int) -> np.ndarray:
    """Return ``labels`` with 255 where the label's probability is above max(``thresh``, the ``min_kept``-th smallest one)."""
    valid = labels != IGNORE
    if min_kept == 0 or min_kept > valid.sum():
        return labels
    probability = np.take_along_axis(softmax(logits), _classes(labels), 1)[:, 0]
    cut = max(np.sort(probability[valid])[min_kept - 1], thresh)
    return np.where(probability <= cut, labels, np.uint8(IGNORE))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return float64 probabilities."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def _classes(labels: np.ndarray) -> np.ndarray:
    """Return ``[B,1,H,W]``: the labels, 0 where there is none."""
    return np.where(labels == IGNORE, 0, labels)[:, None].astype(np.int64)


def _matrix(length: int, source: int) -> np.ndarray:
    """Return what resizes one axis, ``[length,source]``: output i lies at i * (source - 1) / (length - 1)."""
    position = np.arange(length) * ((source - 1) / max(length - 1, 1))
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(source)))
