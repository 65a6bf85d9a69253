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
from dataclasses import dataclass
from itertools import islice
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from common.config import AugmentConfig, ExperimentConfig
from common.data.datasets import Dataset
from common.data.pipelines import PIPELINES
from common.data.sampling import sampled_order
from common.errors import UserError
from common.method import Batch, OwnEpochs, Stream
from common.rng import generator
from common.splits import Split
from common.subclasses import file_stem, read_subclass_image

Arrays = dict[str, np.ndarray]


class Task(NamedTuple):
    """One sample to prepare: ``position`` counts in the batch of all processes together."""

    stream: str
    image_id: str
    epoch: int
    step: int
    position: int


class Plan:
    """Which sample comes when, in which process; see :class:`Loader` for the arguments."""

    def __init__(
        self, split: Split, streams: Sequence[Stream], config: ExperimentConfig, process: int = 0, processes: int = 1
    ) -> None:
        self._lists = {"labelled": split.labelled, "unlabelled": split.unlabelled}
        self._batch = {"labelled": config.loader.batch_labelled, "unlabelled": config.loader.batch_unlabelled}
        self._streams, self._seed = tuple(streams), config.trainer.seed
        self._sampling = config.loader
        self._process, self._processes = process, processes
        # An epoch passes over the unlabelled list, usually the longer one; the labelled list is repeated as needed.
        self._leading = "unlabelled" if "unlabelled" in {stream.source for stream in streams} else "labelled"
        self._keep = (
            config.loader.last_batch == "keep"
            and self._leading == "labelled"
            and not config.trainer.iterations_per_epoch
        )
        self._check(split.id)
        self.iterations_per_epoch = self._count(config)
        self._round = self.iterations_per_epoch
        if config.loader.labelled_replay == "cached":
            length, batch = len(split.labelled), config.loader.batch_labelled
            own = isinstance(config.method, OwnEpochs)
            self._round = max(config.method.round_steps(length, batch) if own else length // batch, 1)

    def tasks(self, epoch: int, first_step: int = 0) -> Iterator[list[Task]]:
        """Yield the tasks of this process for every step of ``epoch`` from ``first_step`` on, all streams together."""
        orders = {stream.name: self._order(stream, epoch) for stream in self._streams}
        for step in range(first_step, self.iterations_per_epoch):
            tasks = []
            for stream in self._streams:
                total = self._batch[stream.source]
                drawn = step % self._round if stream.source == "labelled" else step
                ids = orders[stream.name][drawn * total : (drawn + 1) * total]
                chosen = self._chosen(stream, list(enumerate(ids)), epoch, drawn)
                own = total // stream.one_of // self._processes
                mine = chosen[self._process * own : (self._process + 1) * own]
                tasks += [Task(stream.name, image_id, epoch, drawn, position) for position, image_id in mine]
            yield tasks

    def _chosen(self, stream: Stream, entries: list[tuple[int, str]], epoch: int, step: int) -> list[tuple[int, str]]:
        """Positions and ids of the samples that the stream prepares of its ``entries`` of one step."""
        if stream.one_of == 1 and stream.probability == 1:
            return entries
        rng = generator(self._seed, f"choice {stream.name}", epoch, step)
        groups = range(0, len(entries), stream.one_of)
        entries = [entries[start + int(rng.integers(stream.one_of))] for start in groups]
        return [(position, name if rng.random() < stream.probability else "") for position, name in entries]

    def _order(self, stream: Stream, epoch: int) -> list[str]:
        """The ids that one epoch takes from a list: one permutation of the list after the other, unless ``samples`` is set."""
        ids, leader = self._lists[stream.source], self._leader(stream)
        needed = len(ids) if self._keep else self.iterations_per_epoch * self._batch[stream.source]
        rng = generator(self._seed, f"order {leader.name}", epoch)
        samples, tail = self._sampling.samples, self._sampling.tail
        if samples is not None:
            truncate = self._sampling.truncate_unlabelled and stream.source == "unlabelled"
            return [ids[index] for index in sampled_order(len(ids), samples, needed, tail, truncate, rng)]
        if stream.order == "uniform":
            return [ids[index] for index in rng.integers(len(ids), size=needed)]
        length = len(self._lists[leader.source])
        rounds = -(-needed // length)
        return [ids[index % len(ids)] for _ in range(rounds) for index in rng.permutation(length)][:needed]

    def _leader(self, stream: Stream) -> Stream:
        """The stream whose order ``stream`` takes: the one it follows, unless that has fewer images, else itself."""
        followed = [other for other in self._streams if other.name == stream.follows]
        longer = [other for other in followed if len(self._lists[other.source]) >= len(self._lists[stream.source])]
        return longer[0] if longer else stream

    def _count(self, config: ExperimentConfig) -> int:
        """Iterations per epoch: as set, else one pass over the leading list (``specs/u2pl.md`` sections 2.3 and 11)."""
        wanted = config.trainer.iterations_per_epoch
        if wanted is not None:
            return wanted
        if isinstance(config.method, OwnEpochs):
            return self._own_count(config)
        length, batch = len(self._lists[self._leading]), self._batch[self._leading]
        if config.loader.samples is not None:
            length = config.loader.samples
            if length < batch:
                raise UserError(
                    f"loader.samples = {length} do not fill one batch of loader.batch_{self._leading} = {batch}; raise it"
                )
            return length // batch
        if self._leading == "labelled" and config.loader.last_batch != "drop":
            return -(-length // batch)
        if length < batch:
            raise UserError(
                f"{length} {self._leading} images do not fill one batch of loader.batch_{self._leading} = {batch}; "
                "lower it or set trainer.iterations_per_epoch"
            )
        return length // batch

    def _own_count(self, config: ExperimentConfig) -> int:
        length, batch = len(self._lists["labelled"]), self._batch["labelled"]
        steps = config.method.steps_per_epoch(length, batch)
        if steps < 1:
            raise UserError(
                f"{length} labelled images do not fill one batch of loader.batch_labelled = {batch}; lower it or set "
                "trainer.iterations_per_epoch"
            )
        return steps

    def _check(self, split_id: str) -> None:
        if self._keep and self._processes > 1:
            raise UserError("loader.last_batch=keep is for one process only; use fill or drop with several")
        for source in dict.fromkeys(stream.source for stream in self._streams):
            if not self._lists[source]:
                raise UserError(
                    f"split {split_id} has no {source} images, but the method needs them; choose another split"
                )
            if self._batch[source] % self._processes:
                raise UserError(
                    f"loader.batch_{source} = {self._batch[source]} cannot be shared by {self._processes} processes; "
                    f"use a multiple of {self._processes}"
                )
        for stream in self._streams:
            if self._batch[stream.source] // self._processes % stream.one_of:
                raise UserError(
                    f"loader.batch_{stream.source} = {self._batch[stream.source]}: the method keeps one of every "
                    f"{stream.one_of} images, so use a multiple of {stream.one_of * self._processes}"
                )


@dataclass(frozen=True, kw_only=True)
class SampleMaker:
    """Turns tasks into arrays; the part of a loader that every worker process has."""

    dataset: Dataset
    streams: dict[str, Stream]
    augment: AugmentConfig
    seed: int

    def make(self, task: Task) -> Arrays:
        """Return the arrays of one sample under the names that the stream's pipeline gives them; zeros for the id ``""``."""
        stream = self.streams[task.stream]
        if not task.image_id:
            side = self.augment.crop
            labels = {name: np.zeros((side, side), np.uint8) for name in stream.labels}
            return {"image": np.zeros((3, side, side), np.float32)} | labels
        rng = generator(self.seed, f"augment {task.stream}", task.epoch, task.step, task.position)
        image = self.dataset.image(task.image_id)
        labels = {name: self._label(stream, name, task.image_id, image.shape[:2]) for name in stream.labels}
        return PIPELINES[stream.pipeline](image, labels, self.augment, rng)

    def _label(self, stream: Stream, name: str, image_id: str, shape: tuple[int, int]) -> np.ndarray:
        """The label image that a stream calls ``name``: ``label`` is the data set's own, others lie in the stream's folders."""
        if name in stream.folders:
            path = Path(stream.folders[name]) / f"{file_stem(self.dataset.config, image_id)}.png"
            return read_subclass_image(path, shape)
        if name != "label":
            raise ValueError(f"no label images have the name {name!r}")
        return self.dataset.label(image_id)


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
            augment=config.augment,
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
    cv2.setNumThreads(0)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """A parent that was killed cannot end its workers, and they would wait for tasks for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(task: Task) -> Arrays:
    return _worker.make(task)
