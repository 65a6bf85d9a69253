"""What ``configs/splits.yaml`` knows: every published list by id, with counts, digests, origin and the way to get it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.config import SplitConfig
from common.documents import read_yaml
from common.paths import CONFIGS, PROJECT
from common.strict import build, ranged

LABELLED_FILE, UNLABELLED_FILE = "labeled.txt", "unlabeled.txt"


@dataclass(frozen=True, kw_only=True)
class ListFacts:
    """Number of distinct ids of a list and the SHA-256 of its canonical form."""

    count: int = ranged(low=0)
    digest: str

    def __post_init__(self) -> None:
        if len(self.digest) != 64 or not set(self.digest) <= set("0123456789abcdef"):
            raise ValueError(f"digest {self.digest!r} is not 64 lower-case hexadecimal digits")


@dataclass(frozen=True, kw_only=True)
class KnownSplit:
    """One entry of the registry.

    ``way`` says how the labelled list comes about: ``import`` (only from a copy of the authors' list), ``every`` (every
    ``ratio``-th id of the training list, ``order`` says whether of the sorted ids or in the order of the list's file,
    ``specs/splits_cps.md`` section 3), ``seeded`` (drawn here with ``seed``), ``all`` (the whole training list).
    The unlabelled list is the rest of the training list, whose facts may be unknown.
    """

    origin: str
    way: Literal["import", "every", "seeded", "all"]
    ratio: int | None = ranged(None, low=2)
    order: Literal["sorted", "file"] = "sorted"
    seed: int | None = ranged(None, low=0)
    labelled: ListFacts
    unlabelled: ListFacts | None = None

    def __post_init__(self) -> None:
        if (self.way == "every") != (self.ratio is not None):
            raise ValueError("ratio belongs to way: every, and only to it")
        if (self.way == "seeded") != (self.seed is not None):
            raise ValueError("seed belongs to way: seeded, and only to it")


@dataclass(frozen=True, kw_only=True)
class KnownDataset:
    """The training and validation lists of a data set and its splits by id."""

    train: ListFacts
    val: ListFacts
    lists: dict[str, KnownSplit]


@dataclass(frozen=True, kw_only=True)
class _Document:
    datasets: dict[str, KnownDataset]


@functools.lru_cache(maxsize=4)
def registry(configs: Path = CONFIGS) -> dict[str, KnownDataset]:
    """Return the registry by data set name; raises :class:`UserError` naming file and key when it is malformed."""
    name = f"{configs.name}/splits.yaml"
    return build(_Document, {"datasets": read_yaml(configs / "splits.yaml", name)}, {"": name}).datasets


def known_splits(dataset: str, configs: Path = CONFIGS) -> dict[str, KnownSplit | None]:
    """Return the registered splits of a data set by id; ``all`` is there even for a data set of the user's own."""
    known = registry(configs).get(dataset)
    return {**(known.lists if known else {"all": None})}


def canonical(ids: Iterable[str]) -> tuple[str, ...]:
    """Sorted distinct ids: the order and form in which lists are compared, hashed and kept."""
    return tuple(sorted(set(ids)))


def digest(ids: Iterable[str]) -> str:
    """SHA-256 of the canonical form: sorted distinct ids, one a line, each ended by ``\\n``, UTF-8 (``specs/splits_u2pl.md`` 2)."""
    return hashlib.sha256("".join(f"{name}\n" for name in canonical(ids)).encode("utf-8")).hexdigest()


def list_folder(dataset: str, split: SplitConfig) -> Path:
    """The folder in which the lists of a split are kept: ``FOLDER/DATASET/ID``, relative to the project unless absolute."""
    return PROJECT / Path(split.folder).expanduser() / dataset / split.id


def identify(value: str, configs: Path = CONFIGS) -> str | None:
    """Name the registered list with this digest, for example ``voc/u2pl_662 (labelled)``; None when there is none."""
    return next((name for name, facts in _all_lists(configs) if facts.digest == value), None)


def _all_lists(configs: Path) -> Iterator[tuple[str, ListFacts]]:
    for dataset, known in registry(configs).items():
        for split, entry in known.lists.items():
            yield f"{dataset}/{split} (labelled)", entry.labelled
            if entry.unlabelled:
                yield f"{dataset}/{split} (unlabelled)", entry.unlabelled
        yield f"the training list of {dataset}", known.train
        yield f"the validation list of {dataset}", known.val
