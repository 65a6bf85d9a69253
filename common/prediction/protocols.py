"""The protocols that ``evaluation.protocol`` chooses from: how one image is judged.

Resizing is bilinear with aligned corners throughout. Images are normalised before they are padded or resized.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import cv2
import numpy as np

from common.arrays import IGNORE, center_box
from common.config.schema import Accumulate, EvaluationConfig, Normalisation
from common.config.strict import ranged
from common.errors import UserError
from common.images.geometry import center_crop, pad_to, reflect_pad
from common.images.normalise import normalise, planes
from common.images.resize import resize_bilinear
from common.prediction.predictor import Predictor
from common.prediction.sliding import WindowRule, class_ids_of, windows


@dataclass(frozen=True)
class Sample:
    """What is judged of one image: normalised, float32 ``[3,H,W]``, its label uint8 ``[H,W]`` (None: not known), and how to make
    the same as a picture, for those who want to see it."""

    planes: np.ndarray
    label: np.ndarray | None
    picture: Callable[[], np.ndarray]

    @property
    def image(self) -> np.ndarray:
        """The picture, uint8 RGB ``[H,W,3]``."""
        return self.picture()


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol(EvaluationConfig):
    """A named rule by which images are judged; ``decisive`` are the settings that every result states."""

    decisive: ClassVar[tuple[str, ...]] = ()

    def require(self, *names: str) -> None:
        """Raise :class:`ValueError` unless the settings ``names`` are there."""
        for name in names:
            if getattr(self, name) is None:
                raise ValueError(f"protocol {self.protocol} needs evaluation.{name}")

    def check(self, dataset: str, classes: int) -> None:
        """Raise :class:`UserError` if the protocol cannot judge the data set of this name with so many classes."""

    def sample(self, image: np.ndarray, label: np.ndarray | None, normalisation: Normalisation) -> Sample:
        """Return what is judged of an image uint8 ``[H,W,3]`` with its label uint8 ``[H,W]``: all of it."""
        return Sample(planes(image, normalisation), label, lambda: image)

    def class_ids(self, predictor: Predictor, image: np.ndarray, normalisation: Normalisation) -> np.ndarray:
        """Return uint8 ``[H,W]`` class ids of an image uint8 ``[H,W,3]`` of any size."""
        return self.judge(predictor, EvaluationProtocol.sample(self, image, None, normalisation), normalisation)

    def judge(self, predictor: Predictor, sample: Sample, normalisation: Normalisation) -> np.ndarray:
        """Return uint8 ``[H,W]`` class ids of a sample."""
        return predictor.class_ids(sample.planes[None], sample.planes.shape[1:])[0]

    def settings(self) -> dict[str, Any]:
        """Return the settings that decide the score, as stored in every result."""
        return {name: getattr(self, name) for name in self.decisive}


@dataclass(frozen=True, kw_only=True)
class Whole(EvaluationProtocol):
    """The image at its own size; logits resized to that size.

    ``pad_multiple``: the image is reflect-padded at the bottom and the right to multiples of that, and the logits of the padded
    size are cut back.
    """

    protocol: Literal["whole"] = "whole"
    pad_multiple: int = ranged(1, low=1)

    def judge(self, predictor: Predictor, sample: Sample, normalisation: Normalisation) -> np.ndarray:
        """See :class:`EvaluationProtocol`."""
        if self.pad_multiple == 1:
            return super().judge(predictor, sample, normalisation)
        height, width = sample.planes.shape[1:]
        padded = reflect_pad(sample.planes[None], self.pad_multiple)
        return predictor.class_ids(padded, padded.shape[2:])[0, :height, :width]

    def settings(self) -> dict[str, Any]:
        """See :class:`EvaluationProtocol`."""
        return {"pad_multiple": self.pad_multiple} if self.pad_multiple > 1 else {}


@dataclass(frozen=True, kw_only=True)
class Slide(EvaluationProtocol):
    """Windows of ``size`` every ``stride`` pixels (``common/prediction/sliding.py``), each window's logits resized to the window.

    ``accumulate`` joins them. With ``window_rule: shift_back`` an image smaller than the window is padded half on each side
    with the mean colour and the padding is cut off again.

    ``scales`` and ``flip`` add up logits of resized and mirrored images, ``larger_pad`` is the padding of an image that is
    larger than the window in one direction only (CPS and CPCL); they need ``accumulate: sum_logits``.
    """

    decisive: ClassVar[tuple[str, ...]] = ("size", "stride", "window_rule", "accumulate")
    sums: ClassVar[dict[str, Any]] = {"scales": (1.0,), "flip": False, "larger_pad": "mean"}
    """Settings that a result states where they are not these."""

    protocol: Literal["slide"] = "slide"
    size: int | None = ranged(None, low=1)
    stride: int | None = ranged(None, low=1)
    accumulate: Accumulate = "mean_logits"
    window_rule: WindowRule = "shift_back"
    scales: tuple[float, ...] = ranged((1.0,), low=0.01)
    flip: bool = False
    larger_pad: Literal["mean", "black"] = "mean"

    def __post_init__(self) -> None:
        self.require("size", "stride")
        whole_sums = self.accumulate == "sum_logits" and self.window_rule == "shift_back"
        if self._sum_settings() and not whole_sums:
            raise ValueError("scales, flip and larger_pad=black need protocol: slide with accumulate: sum_logits")
        if not self.scales:
            raise ValueError("scales must name at least one factor, e.g. [1.0]")

    def judge(self, predictor: Predictor, sample: Sample, normalisation: Normalisation) -> np.ndarray:
        """See :class:`EvaluationProtocol`."""
        pixels = sample.planes
        height, width = pixels.shape[1:]
        if self._sums_differ(height, width):
            return class_ids_of(self.summed_logits(predictor, sample.image, normalisation))
        if self.window_rule == "shift_back":
            pixels = pad_to(pixels.transpose(1, 2, 0), self.size, 0).transpose(2, 0, 1)
        centre = center_box(pixels.shape[1:], (height, width))
        layout = windows(*pixels.shape[1:], self.size, self.stride, self.window_rule)
        ids = predictor.sliding_class_ids(np.ascontiguousarray(pixels[None]), layout, self.accumulate)
        return ids[centre.rows, centre.columns]

    def settings(self) -> dict[str, Any]:
        """See :class:`EvaluationProtocol`."""
        return super().settings() | self._sum_settings()

    def _sum_settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name, plain in self.sums.items() if getattr(self, name) != plain}

    def _sums_differ(self, height: int, width: int) -> bool:
        """Whether the plain sliding window of one scale would judge an image of this size differently."""
        larger_in_one = min(height, width) < self.size < max(height, width)
        return self.scales != (1.0,) or self.flip or (self.larger_pad == "black" and larger_in_one)

    def summed_logits(self, predictor: Predictor, image: np.ndarray, normalisation: Normalisation) -> np.ndarray:
        """Return float32 ``[K,H,W]`` logits of an image, uint8 RGB ``[H,W,3]``, summed over windows, mirror images and scales.

        The image is resized as bytes, its summed logits are resized back, both bilinearly by OpenCV (half-pixel centres).
        """
        height, width = image.shape[:2]
        total = np.zeros((predictor.classes, height, width), np.float32)
        for scale in self.scales:
            scaled = image
            if scale != 1:
                scaled = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
            logits = np.ascontiguousarray(self._window_sum(predictor, scaled, normalisation).transpose(1, 2, 0))
            if logits.shape[:2] != (height, width):
                logits = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR)
            total += logits.transpose(2, 0, 1)
        return total

    def _window_sum(self, predictor: Predictor, image: np.ndarray, normalisation: Normalisation) -> np.ndarray:
        """Return the sum of all windows' logits ``[K,h,w]``; a place that several windows show counts several times."""
        height, width = image.shape[:2]
        if self.larger_pad == "black" and max(height, width) > self.size:
            image = pad_to(image, self.size, 0)
        pixels = pad_to(normalise(image, normalisation), self.size, 0.0).transpose(2, 0, 1)
        total = np.zeros((predictor.classes, *pixels.shape[1:]), np.float32)
        for window in windows(*pixels.shape[1:], self.size, self.stride, self.window_rule):
            crop = np.ascontiguousarray(pixels[None, :, window.rows, window.columns])
            total[:, window.rows, window.columns] += predictor.logits(crop, crop.shape[2:])[0]
            if self.flip:
                mirrored = np.ascontiguousarray(crop[..., ::-1])
                total[:, window.rows, window.columns] += predictor.logits(mirrored, crop.shape[2:])[0][..., ::-1]
        centre = center_box(pixels.shape[1:], (height, width))
        return total[:, centre.rows, centre.columns]


@dataclass(frozen=True, kw_only=True)
class CenterCrop(EvaluationProtocol):
    """The central ``size`` x ``size`` part of image and label, padded alike.

    The padding counts as ``pad_label``: 0 (the first class, as in U2PL's published VOC numbers) or 255 (left out).
    """

    decisive: ClassVar[tuple[str, ...]] = ("size", "pad_label")

    protocol: Literal["center_crop"] = "center_crop"
    size: int | None = ranged(None, low=1)
    pad_label: int = ranged(255, low=0, high=255)

    def __post_init__(self) -> None:
        self.require("size")

    def check(self, dataset: str, classes: int) -> None:
        """See :class:`EvaluationProtocol`."""
        if self.pad_label >= classes and self.pad_label != IGNORE:
            raise UserError(
                f"evaluation.pad_label = {self.pad_label} is no class of data set {dataset}: "
                f"use 0..{classes - 1}, or {IGNORE} to leave the padding out"
            )

    def sample(self, image: np.ndarray, label: np.ndarray, normalisation: Normalisation) -> Sample:
        """See :class:`EvaluationProtocol`; the image is the crop, with padding of the mean colour."""
        pixels, label = center_crop(image, label, self.size, normalisation, self.pad_label)
        mean, std = np.float32(normalisation.mean), np.float32(normalisation.std)
        return Sample(pixels, label, lambda: np.rint(pixels.transpose(1, 2, 0) * std + mean).astype(np.uint8))

    def class_ids(self, predictor: Predictor, image: np.ndarray, normalisation: Normalisation) -> np.ndarray:
        """Raise :class:`UserError`: this protocol looks at a part of the image only."""
        raise UserError("evaluation.protocol = center_crop sees only a part of the image; predict with whole or slide")


@dataclass(frozen=True, kw_only=True)
class Resize(EvaluationProtocol):
    """The image resized to ``size`` x ``size`` whatever its shape; logits resized to the image's own size."""

    decisive: ClassVar[tuple[str, ...]] = ("size",)

    protocol: Literal["resize"] = "resize"
    size: int | None = ranged(None, low=1)

    def __post_init__(self) -> None:
        self.require("size")

    def judge(self, predictor: Predictor, sample: Sample, normalisation: Normalisation) -> np.ndarray:
        """See :class:`EvaluationProtocol`."""
        squeezed = resize_bilinear(sample.planes[None], (self.size, self.size))
        return predictor.class_ids(squeezed, sample.planes.shape[1:])[0]


PROTOCOLS = Whole | Slide | CenterCrop | Resize
"""What ``evaluation.protocol`` chooses from; without it the first."""
