"""Drawing labelled images: seeded, nested, and covering every class; or every r-th image, as CPS does.

All draws of one seed are the first images of one order, so the smaller is part of the larger.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from common.arrays import IGNORE
from common.command_line import track
from common.datasets.file_dataset import Dataset, FileDataset
from common.errors import UserError
from common.rng import generator
from common.splits.registry import canonical


def seeded_order(ids: Iterable[str], seed: int) -> tuple[str, ...]:
    """Return a permutation of the sorted ids that ``seed`` alone decides."""
    candidates = canonical(ids)
    return tuple(candidates[index] for index in generator(seed, "labelled split").permutation(len(candidates)))


def seeded(ids: Iterable[str], count: int, seed: int) -> tuple[str, ...]:
    """Return ``count`` of ``ids``: the first of :func:`seeded_order`."""
    order = seeded_order(ids, seed)
    if not 1 <= count <= len(order):
        raise UserError(f"cannot draw {count} labelled images from a training list of {len(order)}")
    return order[:count]


def every(ids: Sequence[str], ratio: int) -> tuple[str, ...]:
    """Return the ids 0, r, 2r... in their order, as CPS does."""
    return tuple(ids[::ratio])


def covering(dataset: Dataset, count: int, seed: int) -> tuple[str, ...]:
    """Return ``count`` training images that show every class of the training labels, from :func:`covering_order`.

    Images without a label file stay unlabelled. Raises :class:`UserError` when so few cannot show all classes.
    """
    ids = with_label(dataset)
    order, needed = covering_order(seeded_order(ids, seed), classes_of(dataset, ids))
    if not 1 <= count <= len(order):
        raise UserError(f"cannot draw {count} labelled images from a training list of {len(order)} with labels")
    if count < needed:
        raise UserError(
            f"{count} images drawn with seed {seed} do not show every class of {dataset.name}, {needed} do; raise --count, "
            "or add --plain to draw without looking at the classes"
        )
    return order[:count]


def covering_order(order: Sequence[str], classes: dict[str, frozenset[int]]) -> tuple[tuple[str, ...], int]:
    """Return ``order`` with images that together show every class first, and their number.

    Class by class, the rarest first: unless an image taken before shows it, the first image of ``order`` that does.
    """
    images: dict[int, int] = {}
    for image_id in order:
        for kind in classes[image_id]:
            images[kind] = images.get(kind, 0) + 1
    taken: dict[str, None] = {}
    shown: set[int] = set()
    for kind in sorted(images, key=lambda kind: (images[kind], kind)):
        if kind not in shown:
            chosen = next(image_id for image_id in order if kind in classes[image_id])
            taken[chosen] = None
            shown |= classes[chosen]
    return (*taken, *(image_id for image_id in order if image_id not in taken)), len(taken)


def classes_of(dataset: Dataset, ids: Sequence[str]) -> dict[str, frozenset[int]]:
    """Return the classes in every image's label, by opening each label once."""
    return {
        image_id: frozenset(np.unique(dataset.label(image_id)).tolist()) - {IGNORE} for image_id in track(ids, "labels")
    }


def with_label(dataset: Dataset) -> tuple[str, ...]:
    """Return the training images that have a label file; raises :class:`UserError` when none has."""
    if not isinstance(dataset, FileDataset):
        return dataset.train_ids
    labelled = tuple(image_id for image_id in dataset.train_ids if dataset.label_path(image_id).is_file())
    if not labelled:
        first = dataset.train_ids[0]
        raise UserError(
            f"no training image of {dataset.name} has a label, looked for {dataset.label_path(first)} and the like; "
            "correct dataset.label_dir"
        )
    return labelled
