"""Subclass labels for tests, made without a network: the subclass of a pixel follows from its class and column."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from common.arrays import IGNORE
from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import open_dataset
from common.experiment import compose
from common.methods.usrn.subclasses import Description, digest, file_stem, offsets, write_subclass_image
from common.splits.resolve import resolve


def write_labels(folder: Path, config: ExperimentConfig, counts: Sequence[int]) -> Path:
    """Write the labelled images' subclass labels into ``folder`` and return it."""
    dataset = open_dataset(config.dataset)
    split = resolve(dataset, config.split)
    files = []
    for image_id in split.labelled:
        label = dataset.label(image_id)
        known = np.where(label == IGNORE, 0, label)
        ids = offsets(counts)[known] + np.arange(label.shape[1]) // 8 % np.asarray(counts)[known]
        files.append(folder / f"{file_stem(config.dataset, image_id)}.png")
        write_subclass_image(files[-1], np.where(label == IGNORE, IGNORE, ids).astype(np.uint8))
    Description(
        dataset=dataset.name, split=split.id, split_digest=split.digest, counts=tuple(counts), rule="test", seed=0,
        quantise="int16", sample=None, checkpoint_sha256="", images=len(files), digest=digest(files),
    ).write(folder)  # fmt: skip
    return folder


@cache
def shapes_labels() -> Path:
    """Return a folder with subclass labels of ``shapes/12`` that is removed when the tests end."""
    folder = Path(tempfile.mkdtemp(prefix="subclass_labels_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_labels(folder, compose("shapes/12/usrn"), (4, 2, 1, 1, 2, 1))
