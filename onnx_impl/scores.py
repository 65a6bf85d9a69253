"""What another form of a network costs: several files scored in one pass, differences to the first, and their limits."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.command_line import number, positive
from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import Dataset
from common.evaluation.evaluate import Evaluation, evaluate_together
from common.prediction.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that a file may lose: points of mIoU, points of IoU in any class, and the share of pixels that change."""

    drop: float = 0.3
    class_drop: float = 1.0
    flips: float = 0.015

    @classmethod
    def of(cls, options: argparse.Namespace) -> Limits:
        """Return the limits that :func:`add_limits` has read."""
        return cls(drop=options.max_drop, class_drop=options.max_class_drop, flips=options.max_flips)


def add_limits(parser: argparse.ArgumentParser, defaults: Limits) -> None:
    """Add the options of :class:`Limits` to a command, and ``--limit``, the number of images that judge."""
    for name, default, most, what in (
        ("--max-drop", defaults.drop, 100, "points of mIoU"),
        ("--max-class-drop", defaults.class_drop, 100, "points in any class"),
        ("--max-flips", defaults.flips, 1, "share of pixels that change class"),
    ):
        shown = f"{what} (default: {default:g})"
        parser.add_argument(name, type=number(-most, most), default=default, metavar="X", help=shown)
    parser.add_argument("--limit", type=positive, metavar="N", help="judge on the first N validation images only")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One file on the validation images. IoU in percent; drops in points against the first file, positive is worse.

    ``flips`` is the share of all pixels whose class is not that of the first file, ``worst_class`` the one that lost
    most. Classes without any pixel do not count.
    """

    miou: float
    drop: float
    worst_class: str
    class_drop: float
    flips: float
    images: int
    pixels: int

    def beyond(self, limits: Limits) -> list[str]:
        """Return what exceeds the limits, in words; a NaN does."""
        checks = (
            (self.drop, limits.drop, f"mIoU falls by {self.drop:.3f} points of at most {limits.drop:g}"),
            (
                self.class_drop,
                limits.class_drop,
                f"{self.worst_class} falls by {self.class_drop:.2f} points of at most {limits.class_drop:g}",
            ),
            (
                self.flips,
                limits.flips,
                f"{100 * self.flips:.2f} % of pixels change class of at most {100 * limits.flips:g} %",
            ),
        )
        return [text for value, limit, text in checks if not value <= limit]

    def plain(self) -> dict[str, Any]:
        """Return plain JSON values, rounded to what can be told apart."""
        return {
            "miou": round(self.miou, 4), "drop": round(self.drop, 4), "worst_class": self.worst_class,
            "class_drop": round(self.class_drop, 4), "flips": round(self.flips, 7), "images": self.images,
        }  # fmt: skip


def compare(
    predictors: Sequence[Predictor], dataset: Dataset, ids: Sequence[str], config: ExperimentConfig
) -> list[Score]:
    """Evaluate every predictor on the images ``ids`` in one pass and return its score against the first one."""
    changed = [0] * len(predictors)
    pixels = 0

    def count(image_id: str, image: np.ndarray, label: np.ndarray, predictions: Sequence[np.ndarray]) -> None:
        nonlocal pixels
        pixels += label.size
        for index, prediction in enumerate(predictions):
            changed[index] += int((prediction != predictions[0]).sum())

    evaluations = evaluate_together(predictors, dataset, ids, config, on_image=count)
    return [
        _score(evaluation, evaluations[0], dataset.classes, flips / pixels, pixels)
        for evaluation, flips in zip(evaluations, changed)
    ]


def _score(evaluation: Evaluation, first: Evaluation, classes: Sequence[str], flips: float, pixels: int) -> Score:
    drops = {
        name: 100 * (before - after)
        for name, before, after in zip(classes, first.iou, evaluation.iou)
        if not (math.isnan(before) or math.isnan(after))
    }
    worst = max(drops, key=drops.__getitem__)
    return Score(
        miou=100 * evaluation.miou, drop=100 * (first.miou - evaluation.miou), worst_class=worst, class_drop=drops[worst],
        flips=flips, images=evaluation.images, pixels=pixels,
    )  # fmt: skip
