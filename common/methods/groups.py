"""How a batch falls into groups, and which of them a process has: integers only, no framework.

A batch is ``total`` groups of equal size, contiguous in every stream; the authors' programs have one on each of their GPUs. What
a method computes of a batch (divisors, percentiles, hard examples, coins, partners, draws) is a group's own, and a loss is the mean
over the groups. So a run with G groups gives the same in one process and in P, of which each has G / P groups.

Within a step the images of several streams that pass through a network together lie group by group: those of the first stream of
the first group, those of the second stream of the first group, and so on. Then :func:`parts` cuts whatever belongs to
the images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from common.errors import UserError

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Groups:
    """``total`` groups of a batch, shared out to ``processes``, of which this is number ``process``."""

    total: int = 1
    process: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if self.total % self.processes:
            raise UserError(
                f"trainer.groups = {self.total} cannot be shared by {self.processes} processes: use a number of processes that "
                f"divides it, or trainer.groups={self.processes}, the nearest equivalent"
            )

    @property
    def per_process(self) -> int:
        """How many groups this process has."""
        return self.total // self.processes

    @property
    def numbers(self) -> range:
        """The numbers of this process's groups."""
        return range(self.process * self.per_process, (self.process + 1) * self.per_process)

    def rows(self, count: int) -> range:
        """Return which of ``count`` places of one stream of a whole batch this process has; each group has equally many."""
        if count % self.total:
            raise ValueError(f"{count} places are not {self.total} equal groups")
        share = count // self.processes
        return range(self.process * share, (self.process + 1) * share)

    def each(self, function: Callable[..., Any], *values: Any) -> PerGroup:
        """Return what ``function`` gives for every own group's part of ``values`` (:func:`parts`)."""
        if self.per_process == 1:
            return PerGroup([function(*(value[0] if isinstance(value, PerGroup) else value for value in values))])
        return PerGroup(function(*group) for group in zip(*(parts(value, self.per_process) for value in values)))

    def mean(self, function: Callable[..., Any], *values: Any) -> Any:
        """Return this process's part of the mean over all groups of what ``function`` gives for a group's part of ``values``.

        The sum of that over the processes is the mean. ``function`` returns a number or tensor, or several by name.
        """
        results = self.each(function, *values)
        if self.total == 1:
            return results[0]
        if isinstance(results[0], Mapping):
            return {name: sum(result[name] for result in results) / self.total for name in results[0]}
        return sum(results) / self.total

    def draws(self, recorded: Item | None, make: Callable[[int], Item]) -> PerGroup:
        """Return the draws of every own group: ``make`` of its number, or those ``recorded``, of one group or per group."""
        if recorded is None:
            return PerGroup(make(number) for number in self.numbers)
        return recorded if isinstance(recorded, PerGroup) else PerGroup([recorded])

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's part of a list; the parts follow one another and differ by one item at most."""
        each, rest = divmod(len(items), self.processes)
        start = self.process * each + min(self.process, rest)
        return items[start : start + each + (self.process < rest)]


class PerGroup(list):
    """One object for every own group of a process, such as its draws: :func:`parts` hands them out, one each."""


def parts(value: Any, count: int) -> list:
    """Return what each of ``count`` groups has of ``value``.

    Arrays and tensors of any framework are cut along their first axis into equal parts; mappings, tuples, lists and dataclasses
    item by item. A :class:`PerGroup` has a part for each already; everything else, and what says so by ``of_all_groups``, belongs
    to all groups.
    """
    if isinstance(value, PerGroup):
        if len(value) != count:
            raise ValueError(f"{len(value)} objects for {count} groups")
        return list(value)
    if getattr(value, "of_all_groups", False):
        return [value] * count
    if isinstance(value, Mapping):
        return _together(value.values(), count, lambda items: dict(zip(value, items)))
    if isinstance(value, (tuple, list)):
        make = type(value)._make if hasattr(value, "_make") else type(value)
        return _together(value, count, make)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        fields = [getattr(value, name) for name in names]
        return _together(fields, count, lambda items: dataclasses.replace(value, **dict(zip(names, items))))
    return list(_cut(value, count)) if getattr(value, "shape", ()) else [value] * count


def _together(items: Any, count: int, make: Callable[[Any], Any]) -> list:
    columns = [parts(item, count) for item in items]
    return [make([column[group] for column in columns]) for group in range(count)]


def _cut(array: Any, count: int) -> Iterator:
    each, rest = divmod(len(array), count)
    if rest:
        raise ValueError(f"{len(array)} rows are not {count} equal groups")
    for group in range(count):
        yield array[group * each : (group + 1) * each]


def by_group(pieces: Sequence[Sequence], groups: int) -> list:
    """Return the pieces of several streams of a batch, cut and put in the order in which groups lie: see the module."""
    cut = [parts(piece, groups) for piece in pieces]
    return [stream[group] for group in range(groups) for stream in cut]


def by_stream(groups: Sequence[np.ndarray], streams: int) -> np.ndarray:
    """Return arrays that every group has for its part of ``streams`` batches as one array, stream by stream."""
    if len(groups) == 1:
        return groups[0]
    return np.concatenate([part for stream in zip(*(parts(group, streams) for group in groups)) for part in stream])
