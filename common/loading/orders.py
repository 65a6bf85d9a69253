"""The orders in which an epoch takes the images of a list, one class each, and which images of a batch are prepared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.loading.sampling import Tail, sampled_order


class Order(Protocol):
    """An order of the images of one list."""

    def epoch(self, needed: int, rng: np.random.Generator) -> list[str]:
        """Return the ids of the ``needed`` samples of one epoch, drawn from ``rng``."""


@dataclass(frozen=True)
class Permutations:
    """One permutation after the other of ``length`` entries; entry i is image i modulo the length of the list.

    ``length`` is that of the list, or of a longer one that this list follows.
    """

    ids: Sequence[str]
    length: int

    def epoch(self, needed: int, rng: np.random.Generator) -> list[str]:
        """See :class:`Order`."""
        rounds = -(-needed // self.length)
        entries = [index for _ in range(rounds) for index in rng.permutation(self.length)]
        return [self.ids[index % len(self.ids)] for index in entries[:needed]]


@dataclass(frozen=True)
class Uniform:
    """Each image drawn by itself, all of the list equally likely."""

    ids: Sequence[str]

    def epoch(self, needed: int, rng: np.random.Generator) -> list[str]:
        """See :class:`Order`."""
        return [self.ids[index] for index in rng.integers(len(self.ids), size=needed)]


@dataclass(frozen=True)
class Repeated:
    """Permutations of ``samples`` places, on which a shorter list is repeated and a longer one cut (:func:`sampled_order`)."""

    ids: Sequence[str]
    samples: int
    tail: Tail
    truncate: bool

    def epoch(self, needed: int, rng: np.random.Generator) -> list[str]:
        """See :class:`Order`."""
        indices = sampled_order(len(self.ids), self.samples, needed, self.tail, self.truncate, rng)
        return [self.ids[index] for index in indices]


@dataclass(frozen=True)
class Choice:
    """Of every ``one_of`` consecutive images of a batch one is kept, drawn at random; each is prepared with ``probability``."""

    one_of: int
    probability: float

    def of(self, entries: list[tuple[int, str]], rng: np.random.Generator) -> list[tuple[int, str]]:
        """Return position in the batch and id of what is kept; the id of an image that is not prepared is ``""``."""
        groups = range(0, len(entries), self.one_of)
        kept = [entries[start + int(rng.integers(self.one_of))] for start in groups]
        return [(position, name if rng.random() < self.probability else "") for position, name in kept]
