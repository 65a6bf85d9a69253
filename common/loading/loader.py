"""Training batches as NumPy arrays: the same bytes for every framework, whatever the number of worker processes.

Which image comes when is decided by a generator per stream and epoch, how it is augmented by a generator per stream,
epoch, step and position in the batch. So any step of any epoch can be computed alone, and resuming needs no state.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

import cv2
import numpy as np

from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import Dataset
from common.errors import UserError
from common.loading.plan import Plan, Task
from common.loading.ring import Filling, Place, Ring, Spec, write
from common.loading.samples import Arrays, SampleMaker
from common.methods.interface import Batch, Stream
from common.splits.split import Split

CHUNKS = 2
"""Pieces of work per worker that the samples of a batch are handed out in."""


class Loader:
    """Batches of a method's streams, prepared ahead by worker processes. Use it as a context manager, or close it.

    ``config.loader`` holds the batch sizes over all ``processes``; this loader gives the part of ``process``. With ``eight_bit``
    pictures come as uint8 ``[B,S,S,3]`` where they are so before they are normalised. An epoch
    has ``trainer.iterations_per_epoch`` steps; if unset, as many as ``loader.samples`` images fill, and without that one
    pass over the unlabelled list, or, where no stream reads that, over the labelled list. A list that is used up goes on in a new
    order. Raises :class:`UserError` when lists and batch sizes do not fit.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        streams: Sequence[Stream],
        config: ExperimentConfig,
        process: int = 0,
        processes: int = 1,
        eight_bit: bool = False,
    ) -> None:
        self._plan = Plan(split, streams, config, process, processes)
        self._config = config.loader
        self._maker = SampleMaker(
            dataset=dataset,
            streams={stream.name: stream for stream in streams},
            seed=config.trainer.seed,
            eight_bit=eight_bit,
        )
        self._pool: ProcessPoolExecutor | None = None
        self._ring: Ring | None = None
        self._said = False

    @property
    def iterations_per_epoch(self) -> int:
        """Number of steps of every epoch."""
        return self._plan.iterations_per_epoch

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes and remove their shared memory; batches stay as they are."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
            self._ring.close()

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` from ``first_step`` on, exactly those that the whole epoch has there.

        Raises the :class:`UserError` of a file that cannot be read, and one when a worker process was killed.
        """
        plan = self._plan.tasks(epoch, first_step)
        if self._config.workers:
            yield from self._prefetched(plan)
        else:
            for tasks in plan:
                yield _collate(tasks, map(self._maker.make, tasks))

    def _prefetched(self, plan: Iterator[list[Task]]) -> Iterator[Batch]:
        running: deque[_Running] = deque()
        try:
            for tasks in islice(plan, self._config.prefetch):
                running.append(self._submit(tasks))
            while running:
                batch = running[0].batch()
                running.popleft()
                for following in islice(plan, 1):
                    running.append(self._submit(following))
                yield batch
        except BrokenProcessPool:
            self.close()
            raise UserError(
                "a worker process of the data loader was killed, most likely because memory ran out; "
                "lower loader.workers or loader.prefetch, or set loader.workers=0 to see the cause"
            ) from None
        finally:
            for part in running:
                part.cancel()

    def _submit(self, tasks: Sequence[Task]) -> _Running:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                max_workers=self._config.workers,
                # Not fork: threads and device contexts of the frameworks do not survive it.
                mp_context=_WorkerContext(),
                initializer=_start_worker,
                initargs=(self._maker,),
            )
            self._ring = Ring(
                {
                    name: {
                        array: Spec(value.shape, value.dtype.str) for array, value in self._maker.blank(name).items()
                    }
                    for name in self._maker.streams
                }
            )
        filling = self._slot(tasks)
        places = filling.places() if filling else [None] * len(tasks)
        each = -(-len(tasks) // (CHUNKS * self._config.workers))
        futures = [
            self._pool.submit(_work, tasks[start : start + each], places[start : start + each])
            for start in range(0, len(tasks), each)
        ]
        if filling:
            filling.written_by(futures)
        return _Running(tasks, futures, filling)

    def _slot(self, tasks: Sequence[Task]) -> Filling | None:
        """Where the batch of ``tasks`` is written; None: nowhere, its samples come through a pipe."""
        try:
            return self._ring.take(tasks)
        except OSError as error:
            if not self._said:
                self._said = True
                print(
                    f"note: no shared memory for another batch ({error.strerror}), so samples come through a pipe, which takes "
                    "the training process's time; enlarge /dev/shm (docker run --shm-size=8g) or lower loader.prefetch",
                    file=sys.stderr,
                )
            return None


class _Running:
    """A batch that worker processes are making, several tasks in one piece of work."""

    def __init__(self, tasks: Sequence[Task], futures: Sequence[Future], filling: Filling | None) -> None:
        self._tasks, self._futures, self._filling = tasks, futures, filling

    def batch(self) -> Batch:
        """Wait for the samples; raises what a worker raised."""
        parts = [future.result() for future in self._futures]
        return self._filling.batch() if self._filling else _collate(self._tasks, chain.from_iterable(parts))

    def cancel(self) -> None:
        """Begin none of the work that has not begun."""
        for future in self._futures:
            future.cancel()


def _collate(tasks: Sequence[Task], samples: Iterable[Arrays]) -> Batch:
    """Stack the samples of each stream in the order of their tasks."""
    parts: dict[str, list[tuple[str, Arrays]]] = {}
    for task, sample in zip(tasks, samples):
        parts.setdefault(task.stream, []).append((task.image_id, sample))
    return {
        stream: {
            "ids": [image_id for image_id, _ in part],
            **{name: np.stack([sample[name] for _, sample in part]) for name in part[0][1]},
        }
        for stream, part in parts.items()
    }


_worker: SampleMaker | None = None
"""What this process makes samples with, if it is a worker."""


class _WorkerProcess(SpawnProcess):
    def terminate(self) -> None:
        # SIGTERM is ignored below, and the pool waits for what it has terminated.
        self.kill()


class _WorkerContext(SpawnContext):
    Process = _WorkerProcess


def _start_worker(maker: SampleMaker) -> None:
    global _worker
    _worker = maker
    # Ctrl-C, and SIGTERM of a scheduler, reach all processes; the main one decides what they mean and needs its
    # batches until then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    cv2.setNumThreads(0)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """A parent that was killed cannot end its workers, and they would wait for tasks for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(tasks: Sequence[Task], places: Sequence[Place | None]) -> list[Arrays]:
    """Make the samples of ``tasks``; return those that have no place in shared memory."""
    returned = []
    for task, place in zip(tasks, places):
        sample = _worker.make(task)
        if place is None:
            returned.append(sample)
        else:
            write(place, sample)
    return returned
