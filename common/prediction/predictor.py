"""The small interface through which the one evaluation talks to PyTorch, MindSpore and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.arrays import Box, Size
from common.config.schema import Accumulate


@dataclass(frozen=True, kw_only=True)
class UsedRuntime:
    """What really ran: ``name`` is ``torch``, ``mindspore`` or ``onnx``; ``device`` e.g. ``cpu``, ``cuda:0``, ``CPUExecutionProvider``."""

    name: str
    version: str
    device: str


STRIP_ROWS = 32
"""Rows of an image for which the prototype head computes at a time, so that its memory does not grow with the height."""


class Predictor(Protocol):
    """A network in eval mode. Images are normalised float32 ``[B,3,H,W]``; resizing is bilinear, align_corners."""

    runtime: UsedRuntime
    classes: int

    def logits(self, images: np.ndarray, size: Size) -> np.ndarray:
        """Return float32 ``[B,K,h,w]`` logits resized to ``size`` (for comparison; large)."""

    def class_ids(self, images: np.ndarray, size: Size) -> np.ndarray:
        """Return uint8 ``[B,h,w]`` arg-max class ids at ``size``, computed on the device."""

    def sliding_class_ids(self, image: np.ndarray, windows: Sequence[Box], accumulate: Accumulate) -> np.ndarray:
        """Return uint8 ``[H,W]`` class ids of one image ``[1,3,H,W]`` from overlapping windows, joined on the device."""
