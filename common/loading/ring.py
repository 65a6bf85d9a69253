"""Batches in shared memory: worker processes write samples where the training process reads them, as views without a copy.

A slot is one block of shared memory that holds one batch. It is free again when nothing refers to the arrays of its batch any
more. Blocks have names until :meth:`Ring.close`; a process that is killed leaves them to Python's resource tracker, which outlives it.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from multiprocessing.shared_memory import SharedMemory
from typing import NamedTuple

import numpy as np

from common.loading.plan import Task
from common.loading.samples import Arrays
from common.methods.interface import Batch

ALIGNMENT = 64
"""Arrays begin at multiples of so many bytes, as the frameworks' own do."""


class Spec(NamedTuple):
    """Shape and type of one array of a sample."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


class Place(NamedTuple):
    """Where a sample belongs: the name of the block, and by array where it begins and what it is."""

    block: str
    arrays: Mapping[str, tuple[int, Spec]]


class Ring:
    """The slots of one loader. ``specs`` says by stream which arrays a sample has."""

    def __init__(self, specs: Mapping[str, Mapping[str, Spec]]) -> None:
        self._specs = specs
        self._slots: list[_Slot] = []
        self._ended = weakref.finalize(self, _unlink, self._slots)

    def take(self, tasks: Sequence[Task]) -> Filling:
        """Return a slot for the samples of ``tasks``; raises :class:`OSError` where there is not enough shared memory."""
        arrays, size = self._layout(tasks)
        free = (slot for slot in self._slots if slot.size >= size and slot.is_free())
        slot = next(free, None)
        if slot is None:
            slot = _Slot(size)
            self._slots.append(slot)
        return Filling(slot, tasks, arrays)

    def close(self) -> None:
        """Remove all blocks; the arrays of batches that are still in use stay readable."""
        self._ended()
        self._slots.clear()

    def _layout(self, tasks: Sequence[Task]) -> tuple[dict[str, dict[str, tuple[int, Spec]]], int]:
        """By stream and name where an array of the batch begins and what it is; and the bytes of all."""
        counts: dict[str, int] = {}
        for task in tasks:
            counts[task.stream] = counts.get(task.stream, 0) + 1
        arrays: dict[str, dict[str, tuple[int, Spec]]] = {}
        end = 0
        for stream, count in counts.items():
            for name, spec in self._specs[stream].items():
                batched = Spec((count, *spec.shape), spec.dtype)
                arrays.setdefault(stream, {})[name] = (end, batched)
                end += -(-batched.size // ALIGNMENT) * ALIGNMENT
        return arrays, end


class Filling:
    """A slot while worker processes write the samples of one batch into it."""

    def __init__(
        self, slot: _Slot, tasks: Sequence[Task], arrays: Mapping[str, Mapping[str, tuple[int, Spec]]]
    ) -> None:
        self._slot, self._tasks, self._arrays = slot, tasks, arrays
        self._lease = slot.lease()

    def places(self) -> list[Place]:
        """Return where the sample of each task belongs."""
        counts: dict[str, int] = {}
        places = []
        for task in self._tasks:
            index = counts[task.stream] = counts.get(task.stream, -1) + 1
            sample = {}
            for name, (start, batched) in self._arrays[task.stream].items():
                spec = Spec(batched.shape[1:], batched.dtype)
                sample[name] = (start + index * spec.size, spec)
            places.append(Place(self._slot.name, sample))
        return places

    def written_by(self, futures: Sequence[Future]) -> None:
        """Say who writes: until they are done, the slot is not free, even if nobody wants the batch any more."""
        self._slot.writers = tuple(futures)

    def batch(self) -> Batch:
        """Return the batch as views; all samples must be there."""
        ids: dict[str, list[str]] = {}
        for task in self._tasks:
            ids.setdefault(task.stream, []).append(task.image_id)
        return {
            stream: {
                "ids": ids[stream],
                **{name: np.asarray(_Memory(self._lease, start, spec)) for name, (start, spec) in arrays.items()},
            }
            for stream, arrays in self._arrays.items()
        }


class _Slot:
    """One block of shared memory, and who uses it."""

    def __init__(self, size: int) -> None:
        self._block = SharedMemory(create=True, size=size)
        try:
            _reserve(self._block)
        except OSError:
            self.unlink()
            raise
        self.size, self.name = size, self._block.name
        self.address = np.frombuffer(self._block.buf, np.uint8).ctypes.data
        self.writers: tuple[Future, ...] = ()
        self._lease: Callable[[], _Lease | None] = lambda: None

    def lease(self) -> _Lease:
        """Take the slot until nothing refers to the lease any more."""
        lease = _Lease(self)
        self._lease = weakref.ref(lease)
        return lease

    def is_free(self) -> bool:
        """Whether nobody reads or writes it."""
        return self._lease() is None and all(writer.done() for writer in self.writers)

    def unlink(self) -> None:
        """Take the block's name away; the memory goes when the last process has let go of it."""
        self._block.unlink()


class _Lease:
    """Keeps a slot taken, and its memory mapped, for as long as it exists."""

    def __init__(self, slot: _Slot) -> None:
        self.slot = slot


class _Memory:
    """What an array of a batch views; NumPy keeps it alive with the array."""

    def __init__(self, lease: _Lease, start: int, spec: Spec) -> None:
        self._lease = lease
        self.__array_interface__ = {
            "data": (lease.slot.address + start, False), "shape": spec.shape, "typestr": spec.dtype, "version": 3,
        }  # fmt: skip


def _reserve(block: SharedMemory) -> None:
    """Take the memory now: where it is missing, the process that writes to it later is killed without a word."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(block._fd, 0, block.size)


def _unlink(slots: Sequence[_Slot]) -> None:
    for slot in slots:
        slot.unlink()


_attached: dict[str, SharedMemory] = {}
"""The blocks that this process has written to, if it is a worker."""


def write(place: Place, sample: Arrays) -> None:
    """Put the arrays of a sample where they belong; raises :class:`ValueError` if they are not the ones of the place."""
    specs = {name: Spec(array.shape, array.dtype.str) for name, array in sample.items()}
    expected = {name: spec for name, (_, spec) in place.arrays.items()}
    if specs != expected:
        raise ValueError(f"a sample has the arrays {specs}, but its stream promises {expected}")
    block = _attached.get(place.block)
    if block is None:
        block = _attached[place.block] = SharedMemory(place.block)
    for name, (start, spec) in place.arrays.items():
        np.ndarray(spec.shape, spec.dtype, block.buf, start)[...] = sample[name]
