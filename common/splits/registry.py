"""What ``configs/splits.yaml`` knows: every published list by id, with counts, digests, origin and the way to get it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from common.config.schema import SplitConfig
from common.config.strict import build, ranged
from common.config.yaml_files import read_yaml
from common.errors import UserError
from common.paths import CONFIGS, PROJECT, at_home

LABELLED_FILE, UNLABELLED_FILE = "labeled.txt", "unlabeled.txt"


class DigestMismatch(UserError):
    """A list is not the one it is said to be."""


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
    ``ratio``-th id of the training list, ``order`` says whether of the sorted ids or in the order of the list's file),
    ``seeded`` (drawn here with ``seed``), ``all`` (the whole training list). The unlabelled list is the rest of the
    training list, whose facts may be unknown. ``fine`` of the labelled images have pixel-accurate annotations
    (None: not known); ``papers`` are those whose published results are on this list.
    """

    origin: str
    way: Literal["import", "every", "seeded", "all"]
    ratio: int | None = ranged(None, low=2)
    order: Literal["sorted", "file"] = "sorted"
    seed: int | None = ranged(None, low=0)
    labelled: ListFacts
    unlabelled: ListFacts | None = None
    fine: int | None = ranged(None, low=0)
    papers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.way == "every") != (self.ratio is not None):
            raise ValueError("ratio belongs to way: every, and only to it")
        if (self.way == "seeded") != (self.seed is not None):
            raise ValueError("seed belongs to way: seeded, and only to it")
        if self.fine is not None and self.fine > self.labelled.count:
            raise ValueError(f"fine: {self.fine} of {self.labelled.count} labelled images")

    @property
    def fine_share(self) -> str:
        """How many of the labelled images are pixel-accurately annotated, as text."""
        return "?" if self.fine is None else f"{100 * self.fine / self.labelled.count:.0f} %"


@dataclass(frozen=True, kw_only=True)
class OtherList:
    """A published list that is no labelled or unlabelled part of a split."""

    origin: str
    facts: ListFacts


@dataclass(frozen=True, kw_only=True)
class KnownDataset:
    """The training and validation lists of a data set, its splits by id and other published lists by name.

    ``fine`` is the list of the training images with pixel-accurate annotations, where not all have them.
    """

    train: ListFacts
    val: ListFacts
    lists: dict[str, KnownSplit]
    fine: ListFacts | None = None
    others: dict[str, OtherList] = field(default_factory=dict)


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
    """SHA-256 of the canonical form: sorted distinct ids, one a line, each ended by ``\\n``, UTF-8."""
    return hashlib.sha256("".join(f"{name}\n" for name in canonical(ids)).encode("utf-8")).hexdigest()


def list_folder(dataset: str, split: SplitConfig) -> Path:
    """The folder in which the lists of a split are kept: ``FOLDER/DATASET/ID``, relative to the project unless absolute."""
    return PROJECT / at_home(split.folder) / dataset / split.id


class RegisteredList(NamedTuple):
    """A registered list: data set, split or other name, and which list of it (``labelled``, ``train``, ``other``...)."""

    dataset: str
    name: str
    kind: Literal["labelled", "unlabelled", "train", "val", "other"]

    def __str__(self) -> str:
        if self.kind in ("train", "val"):
            return f"the {'training' if self.kind == 'train' else 'validation'} list of {self.dataset}"
        return f"{self.dataset}/{self.name} ({self.kind})" if self.kind != "other" else f"{self.dataset}/{self.name}"


def identify(value: str, configs: Path = CONFIGS) -> str | None:
    """Name the registered list with this digest, for example ``voc/u2pl_662 (labelled)``; None when there is none."""
    entries = find_digest(value, configs)
    return str(entries[0]) if entries else None


def find_digest(value: str, configs: Path = CONFIGS) -> list[RegisteredList]:
    """Return every registered list with this digest; the split ``all`` is named as the training list that it is."""
    return [entry for entry, facts in _all_lists(configs) if facts.digest == value and facts.count]


def _all_lists(configs: Path) -> Iterator[tuple[RegisteredList, ListFacts]]:
    for dataset, known in registry(configs).items():
        for split, entry in known.lists.items():
            if entry.way != "all":
                yield RegisteredList(dataset, split, "labelled"), entry.labelled
                if entry.unlabelled:
                    yield RegisteredList(dataset, split, "unlabelled"), entry.unlabelled
        yield RegisteredList(dataset, "train", "train"), known.train
        yield RegisteredList(dataset, "val", "val"), known.val
        for name, other in known.others.items():
            yield RegisteredList(dataset, name, "other"), other.facts
