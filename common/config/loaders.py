"""The section ``loader``: which lists a method draws its batches from; one class for each way, named by the method's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.config.strict import ranged


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """The labelled list and how batches are made; batch sizes are totals over all processes."""

    batch_labelled: int = ranged(4, low=1)
    workers: int = ranged(2, low=0)
    prefetch: int = ranged(2, low=1)


@dataclass(frozen=True, kw_only=True)
class LabelledList(LoaderConfig):
    """The labelled list alone; ``last_batch`` says what becomes of a rest that does not fill a batch."""

    last_batch: Literal["keep", "drop", "fill"] = "fill"


@dataclass(frozen=True, kw_only=True)
class BothLists(LoaderConfig):
    """Labelled and unlabelled images in every step; an epoch is one pass over the unlabelled list."""

    batch_unlabelled: int = ranged(4, low=1)


@dataclass(frozen=True, kw_only=True)
class RepeatedLists(BothLists):
    """Epochs of ``samples`` images of either list (``common/loading/sampling.py``); null: one pass over the unlabelled list.

    A shorter list is repeated, ``tail`` says how what is left over is drawn; of a longer one ``truncate_unlabelled`` leaves
    the first ones only.
    """

    samples: int | None = ranged(None, low=1)
    tail: Literal["epoch_permutation", "per_access"] = "epoch_permutation"
    truncate_unlabelled: bool = False


@dataclass(frozen=True, kw_only=True)
class ReplayedList(BothLists):
    """Several rounds over the labelled list within one epoch; each round after the first gives, by ``labelled_replay``, fresh
    crops in a new order or the very samples of the first round (USRN's program)."""

    labelled_replay: Literal["fresh", "cached"] = "fresh"
