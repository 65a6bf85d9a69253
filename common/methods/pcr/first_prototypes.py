"""The first prototypes of PCR: k-means centres of labelled features, or those of a file."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from common.arrays import IGNORE
from common.checkpoints.checkpoint import read
from common.checkpoints.formats import SINGLE, SUFFIXES
from common.errors import UserError
from common.files import require_ordinary
from common.methods.pcr.kmeans import class_prototypes
from common.methods.pcr.pcr import PCRSettings
from common.paths import weights_path
from common.rng import generator

Shape = tuple[int, int, int]
"""Classes K, prototypes per class M and channels C."""


def first_prototypes(
    settings: PCRSettings, maps: Iterable[tuple[np.ndarray, np.ndarray]], shape: Shape, seed: int
) -> tuple[np.ndarray, str]:
    """Return prototypes float32 ``[K*M,C]`` made from labelled features, and one line on what they come from.

    ``maps`` gives, image by image, features ``[C,h,w]`` and the label uint8 ``[H,W]``. A class without a pixel starts at 0.
    """
    classes, each, channels = shape
    samples = [PixelSample(settings.proto_init_pixels, channels) for _ in range(classes)]
    images = 0
    for features, label in maps:
        rows, columns = (matching_positions(full, part) for full, part in zip(label.shape, features.shape[1:]))
        labels = label[rows[:, None], columns].ravel()
        keys = generator(seed, "pcr prototype pixels", images).random(labels.size)
        for class_id in np.unique(labels[labels != IGNORE]):
            mine = np.flatnonzero(labels == class_id)
            samples[class_id].add(features.reshape(channels, -1)[:, mine].T, keys[mine])
        images += 1
    features = np.concatenate([sample.features for sample in samples])
    labels = np.repeat(np.arange(classes), [len(sample.keys) for sample in samples])
    if settings.proto_init_space == "unit":
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    draws = generator(seed, "pcr k-means").random((classes, each))
    prototypes, counts = class_prototypes(features, labels, draws)
    absent = ", ".join(str(class_id) for class_id in range(classes) if not counts[class_id])
    note = f"prototypes: k-means on {counts.sum()} labelled pixels of {images} images"
    return prototypes.reshape(classes * each, channels), note + (f"; no pixel of class {absent}" if absent else "")


class PixelSample:
    """At most ``most`` rows of features, those with the smallest keys: a fair sample where the keys are random."""

    def __init__(self, most: int, channels: int) -> None:
        self.most = most
        self.features, self.keys = np.zeros((0, channels), np.float32), np.zeros(0)

    def add(self, features: np.ndarray, keys: np.ndarray) -> None:
        """Take in rows ``[n,C]`` with their ``keys`` ``[n]``."""
        keys = np.concatenate([self.keys, keys])
        kept = np.argpartition(keys, self.most - 1)[: self.most] if len(keys) > self.most else np.arange(len(keys))
        kept.sort()
        self.features, self.keys = np.concatenate([self.features, features])[kept], keys[kept]


def matching_positions(full: int, part: int) -> np.ndarray:
    """Return the row (or column) of a label of ``full`` rows that each row of a map of ``part`` rows lies on."""
    return np.rint(np.arange(part) * ((full - 1) / max(part - 1, 1))).astype(np.intp)


def read_prototypes(settings: PCRSettings, shape: Shape) -> np.ndarray:
    """Return prototypes float32 ``[K*M,C]`` of ``proto_file``: array ``prototypes`` of an ``.npz``, or those of a checkpoint.

    Raises :class:`UserError` for a file that is missing or damaged, or whose prototypes are not finite or misshapen.
    """
    path = weights_path(settings.proto_file)
    prototypes = _checkpoint_prototypes(path) if path.name.endswith(tuple(SUFFIXES)) else _npz_prototypes(path)
    if not isinstance(prototypes, np.ndarray):
        raise UserError(f"{path} holds no array called prototypes; save them as [classes, prototypes, channels]")
    flat = (shape[0] * shape[1], shape[2])
    largest = np.finfo(np.float32).max
    if (
        prototypes.shape not in (shape, flat)
        or prototypes.dtype.kind != "f"
        or not (np.abs(prototypes) <= largest).all()
    ):
        raise UserError(
            f"{path}: its prototypes, {prototypes.dtype} {list(prototypes.shape)}, are not finite numbers of the shape "
            f"{list(shape)} (classes, network.prototypes, channels of the fused features); choose another method.proto_file"
        )
    return prototypes.reshape(flat).astype(np.float32)


def _checkpoint_prototypes(path) -> np.ndarray | None:
    return read(path).only(where=str(path)).networks[SINGLE].get("prototypes")


def _npz_prototypes(path) -> np.ndarray | None:
    try:
        require_ordinary(path)
        with np.load(path, allow_pickle=False) as content:
            return content.get("prototypes")
    except FileNotFoundError:
        raise UserError(f"no prototypes at {path}; check method.proto_file") from None
    # A damaged archive can fail in nearly every way that Python knows.
    except Exception as error:
        raise UserError(
            f"{path} is no readable .npz file ({error}); save it again with numpy.savez(prototypes=...)"
        ) from None
