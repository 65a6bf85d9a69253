"""The one evaluation of all methods and runtimes: images in, class ids back, integers counted.

The protocols, one image at a time, are those of ``common/prediction/protocols.py``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from common.command_line import track
from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import Dataset
from common.errors import UserError
from common.evaluation.metrics import ConfusionMatrix
from common.methods.interface import Processes
from common.prediction.predictor import Predictor, UsedRuntime
from common.prediction.protocols import EvaluationProtocol, Sample

READ_AHEAD = 2
"""Images that are decoded and normalised while the network is busy."""


OnImage = Callable[[str, np.ndarray, np.ndarray, np.ndarray], None]
"""Called with image id, image uint8 ``[H,W,3]``, label uint8 ``[H,W]`` and prediction uint8 ``[H,W]``."""

OnImages = Callable[[str, np.ndarray, np.ndarray, Sequence[np.ndarray]], None]
"""The same with a prediction of every predictor."""


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


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    ids: Sequence[str],
    config: ExperimentConfig,
    progress: bool = True,
    on_image: OnImage | None = None,
    processes: Processes | None = None,
) -> Evaluation:
    """Evaluate ``predictor`` on the images ``ids``, each counted once, under ``config.evaluation``.

    ``progress`` shows a bar on a terminal and plain lines elsewhere, both on stderr. Of several ``processes`` each takes a part of
    the images, the first one the first of them, and all return the sum. Under ``center_crop`` the arrays
    that ``on_image`` sees are the crops. Raises :class:`UserError` for an empty list, a network with another number of
    classes, and for a label that does not fit its image or holds a foreign value, naming the image.
    """

    def show(image_id: str, image: np.ndarray, label: np.ndarray, predictions: Sequence[np.ndarray]) -> None:
        on_image(image_id, image, label, predictions[0])

    return evaluate_together([predictor], dataset, ids, config, progress, show if on_image else None, processes)[0]


def evaluate_together(
    predictors: Sequence[Predictor],
    dataset: Dataset,
    ids: Sequence[str],
    config: ExperimentConfig,
    progress: bool = True,
    on_image: OnImages | None = None,
    processes: Processes | None = None,
) -> list[Evaluation]:
    """Evaluate several predictors in one pass over the images, and return an evaluation for each; see :func:`evaluate`.

    ``seconds`` of every one is that of the whole pass.
    """
    protocol = config.evaluation
    for predictor in predictors:
        _check(predictor, dataset, ids, protocol)
    confusions = [ConfusionMatrix(len(dataset.classes), ignored_classes=dataset.ignored_classes) for _ in predictors]
    started = time.perf_counter()
    share = processes.groups.share(ids) if processes else ids
    judged = zip(share, _read_ahead(lambda image_id: _sample(dataset, image_id, config), share))
    for image_id, sample in track(judged, "evaluate", total=len(share), plain="evaluated") if progress else judged:
        predictions = [protocol.judge(predictor, sample, config.normalisation) for predictor in predictors]
        try:
            for confusion, prediction in zip(confusions, predictions):
                confusion.update(prediction, sample.label)
        except UserError as error:
            raise UserError(f"data set {dataset.name}, image {image_id}: {error}") from None
        if on_image is not None:
            on_image(image_id, sample.image, sample.label, predictions)
    for confusion in confusions if processes else []:
        confusion.add_up(processes.sum_counts)
    seconds = time.perf_counter() - started
    if not confusions[0].truth().any():
        raise UserError(f"data set {dataset.name}: no labelled pixel in any of the {len(ids)} images; check the labels")
    return [
        Evaluation(
            confusion=confusion,
            iou=tuple(map(float, confusion.iou())),
            miou=confusion.miou(protocol.absent_class),
            pixel_accuracy=confusion.pixel_accuracy(),
            images=len(ids),
            seconds=seconds,
            seconds_per_image=seconds / len(ids),
            protocol=describe_protocol(config),
            runtime=predictor.runtime,
        )
        for predictor, confusion in zip(predictors, confusions)
    ]


def predict(predictor: Predictor, image: np.ndarray, config: ExperimentConfig) -> np.ndarray:
    """Return the class ids, uint8 ``[H,W]``, of one whole image, uint8 RGB ``[H,W,3]``, under ``config.evaluation``.

    Raises :class:`UserError` for the protocol ``center_crop``, which looks at a part of the image only.
    """
    return config.evaluation.class_ids(predictor, image, config.normalisation)


def describe_protocol(config: ExperimentConfig) -> dict[str, Any]:
    """Return the protocol's name and the settings that decide its score, as stored in every result."""
    protocol = config.evaluation
    return {
        "name": protocol.protocol,
        **protocol.settings(),
        **({"head": protocol.head} if protocol.head != "linear" else {}),
        "absent_class": protocol.absent_class,
        "mean": list(config.normalisation.mean),
        "std": list(config.normalisation.std),
    }


def _check(predictor: Predictor, dataset: Dataset, ids: Sequence[str], protocol: EvaluationProtocol) -> None:
    classes = len(dataset.classes)
    if not ids:
        raise UserError(f"data set {dataset.name}: no image to evaluate; its list of validation images is empty")
    if predictor.classes != classes:
        raise UserError(
            f"the network has {predictor.classes} classes but data set {dataset.name} has {classes}; "
            "evaluate it on the data set it was trained on"
        )
    protocol.check(dataset.name, classes)


def _sample(dataset: Dataset, image_id: str, config: ExperimentConfig) -> Sample:
    return config.evaluation.sample(dataset.image(image_id), dataset.label(image_id), config.normalisation)


def _read_ahead(load: Callable[[str], Sample], ids: Sequence[str]) -> Iterator[Sample]:
    """Yield ``load(id)`` in order while the next few are loaded in the background."""
    with ThreadPoolExecutor(max_workers=READ_AHEAD) as pool:
        waiting = iter(ids)
        running = deque(pool.submit(load, image_id) for image_id in islice(waiting, READ_AHEAD))
        while running:
            sample = running.popleft().result()
            running.extend(pool.submit(load, image_id) for image_id in islice(waiting, 1))
            yield sample
