"""Epochs of a given number of samples over a list of another length (CPS and CPCL)."""

from __future__ import annotations

from typing import Literal

import numpy as np

Tail = Literal["epoch_permutation", "per_access"]


def repeated_files(files: int, samples: int, permutation: np.ndarray) -> np.ndarray:
    """Return which of ``files`` files each of ``samples`` places of a list stands for, int64 ``[samples]``.

    A shorter list is repeated whole as often as it fits; the places left over take the first entries of ``permutation``
    (of ``files`` indices). Of a longer list only the first ``samples`` files have a place.
    """
    if files >= samples:
        return np.arange(samples)
    whole, rest = divmod(samples, files)
    return np.concatenate([np.tile(np.arange(files), whole), np.asarray(permutation[:rest], dtype=np.int64)])


def sampled_order(
    files: int, samples: int, needed: int, tail: Tail, truncate: bool, rng: np.random.Generator
) -> list[int]:
    """Return the file index of each of the ``needed`` samples of one epoch.

    Every ``samples`` of them are a permutation of the places of :func:`repeated_files`. ``tail`` draws the places left
    over without repetition, or each on its own (``per_access``, as the released program does). A list that is longer
    than ``samples`` is cut to its first files with ``truncate``; without it every epoch takes other ones.
    """
    order: list[int] = []
    while len(order) < needed:
        if files > samples and not truncate:
            chosen = rng.permutation(files)[:samples]
        else:
            fill = rng.integers(files, size=files) if tail == "per_access" else rng.permutation(files)
            chosen = repeated_files(files, samples, fill)[rng.permutation(samples)]
        order += chosen.tolist()
    return order[:needed]
