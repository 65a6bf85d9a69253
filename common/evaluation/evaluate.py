"""The one evaluation of all methods and runtimes: images in, class ids back, integers counted.

Protocols (``evaluation.protocol``), one image at a time:

``whole``        the image at its own size; logits resized to that size. With ``pad_multiple`` the image is reflect-padded at
                 the bottom and the right to multiples of that, and the logits of the padded size are cut back.
``slide``        overlapping windows (``common/evaluation/sliding.py``); each window's logits are resized to the window and joined
                 by ``accumulate``. With the rule ``shift_back`` an image smaller than the window is padded half on each
                 side with the mean colour and the padding is cut off again.
``center_crop``  the central ``size`` x ``size`` part of image and label, padded alike; the padding counts as
                 ``pad_label``: 0 (the first class, as in U2PL's published VOC numbers) or 255 (left out).
``resize``       the image resized to ``size`` x ``size`` whatever its shape; logits resized to the image's own size.

``slide`` with ``scales``, ``flip`` or ``larger_pad`` adds up the logits of scaled and mirrored images (``common/evaluation/score_sum.py``).

Resizing is bilinear with aligned corners throughout. Images are normalised with ``augment.mean`` and ``augment.std``
before they are padded or resized.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from common.arrays import IGNORE
from common.config.schema import EvaluationConfig, ExperimentConfig
from common.datasets.file_dataset import Dataset
from common.errors import UserError
from common.evaluation import score_sum
from common.evaluation.metrics import ConfusionMatrix
from common.evaluation.predictor import Predictor, UsedRuntime
from common.evaluation.sliding import windows
from common.images.geometry import center_crop, pad_to, reflect_pad
from common.images.normalise import normalise
from common.images.resize import resize_bilinear

READ_AHEAD = 2
"""Images that are decoded and normalised while the network is busy."""


SUM_SETTINGS = {"scales": (1.0,), "flip": False, "larger_pad": "mean"}
"""Settings of ``slide`` that a result names where they are not these."""

OnImage = Callable[[str, np.ndarray, np.ndarray, np.ndarray], None]
"""Called with image id, image uint8 ``[H,W,3]``, label uint8 ``[H,W]`` and prediction uint8 ``[H,W]``."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one evaluation found. Scores lie in 0..1; ``iou`` is NaN for a class without any pixel.

    ``seconds`` is the wall time of reading, predicting and counting; ``protocol`` comes from :func:`describe_protocol`.
    """

    confusion: ConfusionMatrix
    iou: tuple[float, ...]
    miou: float
    pixel_accuracy: float
    images: int
    seconds: float
    seconds_per_image: float
    protocol: dict[str, Any]
    runtime: UsedRuntime


@dataclass(frozen=True)
class _Sample:
    """What the protocol judges of one image: uint8 ``[H,W,3]``, normalised float32 ``[3,H,W]`` and uint8 ``[H,W]``."""

    image: np.ndarray
    planes: np.ndarray
    label: np.ndarray


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    ids: Sequence[str],
    config: ExperimentConfig,
    progress: bool = True,
    on_image: OnImage | None = None,
) -> Evaluation:
    """Evaluate ``predictor`` on the images ``ids``, each counted once, under ``config.evaluation``.

    ``progress`` shows a bar on a terminal and plain lines elsewhere, both on stderr. Under ``center_crop`` the arrays
    that ``on_image`` sees are the crops. Raises :class:`UserError` for an empty list, a network with another number of
    classes, and for a label that does not fit its image or holds a foreign value, naming the image.
    """
    settings = config.evaluation
    _check(predictor, dataset, ids, settings)
    confusion = ConfusionMatrix(len(dataset.classes))
    started = time.perf_counter()
    samples = _read_ahead(lambda image_id: _sample(dataset, image_id, config), ids)
    for image_id, sample in _tracked(zip(ids, samples), len(ids), progress):
        prediction = _class_ids(predictor, sample.image, sample.planes, config)
        try:
            confusion.update(prediction, sample.label)
        except UserError as error:
            raise UserError(f"data set {dataset.name}, image {image_id}: {error}") from None
        if on_image is not None:
            on_image(image_id, sample.image, sample.label, prediction)
    seconds = time.perf_counter() - started
    if not confusion.truth().any():
        raise UserError(f"data set {dataset.name}: no labelled pixel in any of the {len(ids)} images; check the labels")
    return Evaluation(
        confusion=confusion,
        iou=tuple(map(float, confusion.iou())),
        miou=confusion.miou(settings.absent_class),
        pixel_accuracy=confusion.pixel_accuracy(),
        images=len(ids),
        seconds=seconds,
        seconds_per_image=seconds / len(ids),
        protocol=describe_protocol(config),
        runtime=predictor.runtime,
    )


def predict(predictor: Predictor, image: np.ndarray, config: ExperimentConfig) -> np.ndarray:
    """Return the class ids, uint8 ``[H,W]``, of one whole image, uint8 RGB ``[H,W,3]``, under ``config.evaluation``.

    Raises :class:`UserError` for the protocol ``center_crop``, which looks at a part of the image only.
    """
    if config.evaluation.protocol == "center_crop":
        raise UserError("evaluation.protocol = center_crop sees only a part of the image; predict with whole or slide")
    return _class_ids(predictor, image, _planes(image, config), config)


def describe_protocol(config: ExperimentConfig) -> dict[str, Any]:
    """Return the protocol's name and the settings that decide its score, as stored in every result."""
    settings = config.evaluation
    used = {
        "whole": ("pad_multiple",) if settings.pad_multiple > 1 else (),
        "slide": ("size", "stride", "window_rule", "accumulate"),
        "center_crop": ("size", "pad_label"),
        "resize": ("size",),
    }[settings.protocol]
    sums = {key: value for key, value in SUM_SETTINGS.items() if getattr(settings, key) != value}
    return {
        "name": settings.protocol,
        **{key: getattr(settings, key) for key in (*used, *sums)},
        **({"head": settings.head} if settings.head != "linear" else {}),
        "absent_class": settings.absent_class,
        "mean": list(config.augment.mean),
        "std": list(config.augment.std),
    }


def _check(predictor: Predictor, dataset: Dataset, ids: Sequence[str], settings: EvaluationConfig) -> None:
    classes = len(dataset.classes)
    if not ids:
        raise UserError(f"data set {dataset.name}: no image to evaluate; its list of validation images is empty")
    if predictor.classes != classes:
        raise UserError(
            f"the network has {predictor.classes} classes but data set {dataset.name} has {classes}; "
            "evaluate it on the data set it was trained on"
        )
    if settings.protocol == "center_crop" and settings.pad_label >= classes and settings.pad_label != IGNORE:
        raise UserError(
            f"evaluation.pad_label = {settings.pad_label} is no class of data set {dataset.name}: "
            f"use 0..{classes - 1}, or {IGNORE} to leave the padding out"
        )


def _sample(dataset: Dataset, image_id: str, config: ExperimentConfig) -> _Sample:
    image, label = dataset.image(image_id), dataset.label(image_id)
    settings = config.evaluation
    if settings.protocol != "center_crop":
        return _Sample(image, _planes(image, config), label)
    planes, label = center_crop(image, label, settings.size, config.augment, settings.pad_label)
    cropped = np.rint(planes.transpose(1, 2, 0) * np.float32(config.augment.std) + np.float32(config.augment.mean))
    return _Sample(cropped.astype(np.uint8), planes, label)


def _planes(image: np.ndarray, config: ExperimentConfig) -> np.ndarray:
    return np.ascontiguousarray(normalise(image, config.augment).transpose(2, 0, 1))


def _class_ids(predictor: Predictor, image: np.ndarray, planes: np.ndarray, config: ExperimentConfig) -> np.ndarray:
    """Return uint8 ``[H,W]`` class ids of an image ``[H,W,3]``, normalised ``[3,H,W]``; a centre crop has been cut out before."""
    settings, (height, width) = config.evaluation, planes.shape[1:]
    if settings.protocol == "slide" and score_sum.needed(settings, height, width):
        return score_sum.summed_logits(predictor, image, config).argmax(0).astype(np.uint8)
    if settings.protocol == "slide":
        return _slide(predictor, planes, settings)
    images = planes[None]
    if settings.pad_multiple > 1:
        images = reflect_pad(images, settings.pad_multiple)
        return predictor.class_ids(images, images.shape[2:])[0, :height, :width]
    if settings.protocol == "resize":
        images = resize_bilinear(images, (settings.size, settings.size))
    return predictor.class_ids(images, (height, width))[0]


def _slide(predictor: Predictor, planes: np.ndarray, settings: EvaluationConfig) -> np.ndarray:
    height, width = planes.shape[1:]
    top, left = 0, 0
    if settings.window_rule == "shift_back":
        planes = pad_to(planes.transpose(1, 2, 0), settings.size, 0).transpose(2, 0, 1)
        top, left = (planes.shape[1] - height) // 2, (planes.shape[2] - width) // 2
    layout = windows(*planes.shape[1:], settings.size, settings.stride, settings.window_rule)
    ids = predictor.sliding_class_ids(np.ascontiguousarray(planes[None]), layout, settings.accumulate)
    return ids[top : top + height, left : left + width]


def _read_ahead(load: Callable[[str], _Sample], ids: Sequence[str]) -> Iterator[_Sample]:
    """Yield ``load(id)`` in order while the next few are loaded in the background."""
    with ThreadPoolExecutor(max_workers=READ_AHEAD) as pool:
        waiting = iter(ids)
        running = deque(pool.submit(load, image_id) for image_id in islice(waiting, READ_AHEAD))
        while running:
            sample = running.popleft().result()
            running.extend(pool.submit(load, image_id) for image_id in islice(waiting, 1))
            yield sample


def _tracked(items: Iterable[Any], total: int, progress: bool) -> Iterator[Any]:
    """Pass ``items`` on and show how far they are: a bar on a terminal, about ten plain lines elsewhere."""
    if not progress:
        yield from items
    elif sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc="evaluate", unit="image", leave=False, file=sys.stderr)
    else:
        interval = -(-total // 10)
        for done, item in enumerate(items, start=1):
            yield item
            if done % interval == 0 or done == total:
                print(f"evaluated {done} of {total} images", file=sys.stderr, flush=True)
