"""Training batches as NumPy arrays: the same bytes for every framework, whatever the number of worker processes.

Which image comes when is decided by a generator per stream and epoch, how it is augmented by a generator per stream,
epoch, step and position in the batch. So any step of any epoch can be computed alone, and resuming needs no state.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

import cv2
import numpy as np

from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import Dataset
from common.errors import UserError
from common.loading.plan import Plan, Task
from common.loading.samples import Arrays, SampleMaker
from common.methods.interface import Batch, Stream
from common.splits.split import Split


class Loader:
    """Batches of a method's streams, prepared ahead by worker processes. Use it as a context manager, or close it.

    ``config.loader`` holds the batch sizes over all ``processes``; this loader gives the part of ``process``. An epoch
    has ``trainer.iterations_per_epoch`` steps; if unset, as many as ``loader.samples`` images fill, and without that one
    pass over the unlabelled list, or, where no stream reads that, over the labelled list. A list that is used up goes on in a new order. Raises :class:`UserError` when lists
    and batch sizes do not fit.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        streams: Sequence[Stream],
        config: ExperimentConfig,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._plan = Plan(split, streams, config, process, processes)
        self._config = config.loader
        self._maker = SampleMaker(
            dataset=dataset,
            streams={stream.name: stream for stream in streams},
            seed=config.trainer.seed,
        )
        self._pool: ProcessPoolExecutor | None = None

    @property
    def iterations_per_epoch(self) -> int:
        """Number of steps of every epoch."""
        return self._plan.iterations_per_epoch

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

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
        running: deque[tuple[list[Task], list[Future[Arrays]]]] = deque()
        try:
            for tasks in islice(plan, self._config.prefetch):
                running.append((tasks, self._submit(tasks)))
            while running:
                tasks, futures = running[0]
                batch = _collate(tasks, (future.result() for future in futures))
                running.popleft()
                for following in islice(plan, 1):
                    running.append((following, self._submit(following)))
                yield batch
        except BrokenProcessPool:
            self.close()
            raise UserError(
                "a worker process of the data loader was killed, most likely because memory ran out; "
                "lower loader.workers or loader.prefetch, or set loader.workers=0 to see the cause"
            ) from None
        finally:
            for _, futures in running:
                for future in futures:
                    future.cancel()

    def _submit(self, tasks: Iterable[Task]) -> list[Future[Arrays]]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                max_workers=self._config.workers,
                # Not fork: threads and device contexts of the frameworks do not survive it.
                mp_context=_WorkerContext(),
                initializer=_start_worker,
                initargs=(self._maker,),
            )
        return [self._pool.submit(_work, task) for task in tasks]


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


def _work(task: Task) -> Arrays:
    return _worker.make(task)
