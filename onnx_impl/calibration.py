"""The images from which quantisation learns the ranges of activations: of the training list and of no other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.arrays import Size, center_box
from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import Dataset
from common.datasets.lists import read_list
from common.errors import UserError
from common.images.normalise import planes
from common.images.resize import resize_bilinear
from common.models.exported_graph import GraphMetadata
from common.rng import generator


def calibration_ids(dataset: Dataset, count: int, seed: int, list_file: Path | None = None) -> tuple[str, ...]:
    """Return ``count`` ids drawn from the training list, or those that ``list_file`` names, sorted.

    Raises :class:`UserError` for an image of the validation list, on which the result is judged, or of no list.
    """
    if list_file is None:
        drawn = generator(seed, "calibration").permutation(len(dataset.train_ids))[:count]
        ids = [dataset.train_ids[index] for index in drawn]
    else:
        ids = [entry.id for entry in read_list(list_file, dataset.config)]
    where = f"list {list_file}" if list_file else f"the training list of data set {dataset.name}"
    judged = sorted(set(ids) & set(dataset.val_ids))
    if judged:
        raise UserError(
            f"{where} has {len(judged)} images that are validated on, e.g. {judged[0]}: a score on images that quantisation "
            "has seen says nothing; calibrate on training images only"
        )
    unknown = sorted(set(ids) - set(dataset.train_ids))
    if unknown:
        raise UserError(
            f"{where}: image {unknown[0]} is not in the training list of data set {dataset.name}; take it out"
        )
    return tuple(sorted(set(ids)))


class CalibrationImages:
    """The input of a graph for every calibration image, read when it is asked for: ``images[index]``.

    A graph of free size gets an image as the protocol shows it: whole, resized, or its central window; a graph of fixed
    size the central part of that size. Raises :class:`UserError` where an image is smaller than a fixed size.
    """

    def __init__(self, dataset: Dataset, ids: Sequence[str], config: ExperimentConfig, metadata: GraphMetadata) -> None:
        self.dataset, self.ids, self.config, self.metadata = dataset, tuple(ids), config, metadata

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return float32 ``[B,3,H,W]`` or uint8 ``[B,H,W,3]``, whichever the graph takes."""
        settings, metadata = self.config.evaluation, self.metadata
        image = self.dataset.image(self.ids[index])
        if metadata.size is not None:
            image = central(image, metadata.size)
            if image.shape[:2] != metadata.size:
                raise UserError(
                    f"image {self.ids[index]} has {image.shape[1]}x{image.shape[0]} pixels, fewer than the graph's fixed size; "
                    "quantise a graph of free size or calibrate on larger images"
                )
        elif settings.protocol in ("slide", "center_crop"):
            image = central(image, (settings.size, settings.size))
        if metadata.input == "picture":
            images = image[None]
        else:
            images = planes(image, self.config.normalisation)[None]
            if settings.protocol == "resize" and metadata.size is None:
                images = resize_bilinear(np.ascontiguousarray(images), (settings.size, settings.size))
        return np.ascontiguousarray(np.repeat(images, metadata.batch or 1, axis=0))


def central(image: np.ndarray, size: Size) -> np.ndarray:
    """Return the central part ``[h,w,...]`` of an image ``[H,W,...]``, no side larger than ``size`` says."""
    box = center_box(image.shape[:2], tuple(map(min, image.shape[:2], size)))
    return image[box.rows, box.columns]
