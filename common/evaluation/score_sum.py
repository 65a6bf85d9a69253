"""Summed logits over scales, mirror images and overlapping windows (CPS and CPCL, ``specs/cpcl.md`` section 8)."""

from __future__ import annotations

import cv2
import numpy as np

from common.config.schema import EvaluationConfig, ExperimentConfig
from common.evaluation.predictor import Predictor
from common.evaluation.sliding import windows
from common.images.geometry import pad_to
from common.images.normalise import normalise


def needed(settings: EvaluationConfig, height: int, width: int) -> bool:
    """Whether the plain sliding window of one scale would judge an image of this size differently."""
    larger_in_one = min(height, width) < settings.size < max(height, width)
    return settings.scales != (1.0,) or settings.flip or (settings.larger_pad == "black" and larger_in_one)


def summed_logits(predictor: Predictor, image: np.ndarray, config: ExperimentConfig) -> np.ndarray:
    """Return float32 ``[K,H,W]`` logits of an image, uint8 RGB ``[H,W,3]``, summed over ``config.evaluation``'s scales.

    The image is resized as bytes, its summed logits are resized back, both bilinearly by OpenCV (half-pixel centres).
    """
    height, width = image.shape[:2]
    total = np.zeros((predictor.classes, height, width), np.float32)
    for scale in config.evaluation.scales:
        scaled = image if scale == 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        logits = np.ascontiguousarray(_window_sum(predictor, scaled, config).transpose(1, 2, 0))
        if logits.shape[:2] != (height, width):
            logits = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR)
        total += logits.transpose(2, 0, 1)
    return total


def _window_sum(predictor: Predictor, image: np.ndarray, config: ExperimentConfig) -> np.ndarray:
    """Return the sum of all windows' logits ``[K,h,w]``; a place that several windows show counts several times."""
    settings, (height, width) = config.evaluation, image.shape[:2]
    if settings.larger_pad == "black" and max(height, width) > settings.size:
        image = pad_to(image, settings.size, 0)
    planes = pad_to(normalise(image, config.augment), settings.size, 0.0).transpose(2, 0, 1)
    total = np.zeros((predictor.classes, *planes.shape[1:]), np.float32)
    for window in windows(*planes.shape[1:], settings.size, settings.stride, settings.window_rule):
        rows, columns = slice(window.top, window.bottom), slice(window.left, window.right)
        crop = np.ascontiguousarray(planes[None, :, rows, columns])
        total[:, rows, columns] += predictor.logits(crop, crop.shape[2:])[0]
        if settings.flip:
            mirrored = np.ascontiguousarray(crop[..., ::-1])
            total[:, rows, columns] += predictor.logits(mirrored, crop.shape[2:])[0][..., ::-1]
    top, left = (planes.shape[1] - height) // 2, (planes.shape[2] - width) // 2
    return total[:, top : top + height, left : left + width]
