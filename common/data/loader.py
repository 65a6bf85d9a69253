"""Batches of augmented samples, the same bytes whatever the number of worker processes.

Every sample is a function of (seed, stream, epoch, step, position), so workers share nothing, prefetching changes nothing and
a run can be continued at any step.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import cv2
import numpy as np

from common.config import ExperimentConfig
from common.data.augment import PIPELINES
from common.data.datasets import Dataset
from common.errors import UserError
from common.method import Batch, Stream, StreamBatch
from common.rng import generator
from common.splits import Split


@dataclass(frozen=True)
class _Plan:
    """What a worker needs to make any batch: lists, batch sizes and the share of the process it works for."""

    dataset: Dataset
    lists: dict[str, tuple[str, ...]]
    streams: tuple[Stream, ...]
    config: ExperimentConfig
    iterations_per_epoch: int
    single_pass: bool
    process: int
    processes: int

    def batch(self, epoch: int, step: int) -> Batch:
        """Return the batch of one step."""
        return {stream.name: self._part(stream, epoch, step) for stream in self.streams}

    def _part(self, stream: Stream, epoch: int, step: int) -> StreamBatch:
        size = batch_size(self.config, stream.source) // self.processes
        positions = range(self.process * size, (self.process + 1) * size)
        chosen = [(p, image_id) for p in positions if (image_id := self._image_id(stream, epoch, step, p)) is not None]
        samples = [self._sample(stream, epoch, step, position, image_id) for position, image_id in chosen]
        part: StreamBatch = {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
        part["ids"] = [image_id for _, image_id in chosen]
        return part

    def _image_id(self, stream: Stream, epoch: int, step: int, position: int) -> str | None:
        """Return the image at a place of a stream; None behind the end of a last batch that is kept short."""
        ids = self.lists[stream.source]
        size = batch_size(self.config, stream.source)
        index = step * size + position
        if self.single_pass:
            if index >= len(ids) and self.config.loader.last_batch == "keep":
                return None
            return ids[self._order(stream, epoch, len(ids))[index % len(ids)]]
        repetition, index = divmod(epoch * self.iterations_per_epoch * size + index, len(ids))
        return ids[self._order(stream, repetition, len(ids))[index]]

    def _order(self, stream: Stream, repetition: int, count: int) -> np.ndarray:
        return generator(self.config.trainer.seed, f"order {stream.name}", repetition).permutation(count)

    def _sample(self, stream: Stream, epoch: int, step: int, position: int, image_id: str) -> dict[str, np.ndarray]:
        rng = generator(self.config.trainer.seed, f"augment {stream.name}", epoch, step, position)
        labels = {name: self.dataset.label(image_id) for name in stream.labels}
        return PIPELINES[stream.pipeline](self.dataset.image(image_id), labels, self.config.augment, rng)


def batch_size(config: ExperimentConfig, source: str) -> int:
    """Return the total number of images a step takes from ``labelled`` or ``unlabelled``."""
    return config.loader.batch_labelled if source == "labelled" else config.loader.batch_unlabelled


class Loader:
    """Makes the batches of a run in ``loader.workers`` processes (0: in this one), ``loader.prefetch`` ahead per worker.

    ``iterations_per_epoch`` is ``trainer.iterations_per_epoch`` if set; else one pass over the unlabelled list
    (``specs/u2pl.md`` section 2.3: the labelled list is repeated, in a fresh order each time), or without an unlabelled
    stream one pass over the labelled list whose last batch is kept short, dropped or filled up (``loader.last_batch``).
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
        lists = {"labelled": tuple(split.labelled), "unlabelled": tuple(split.unlabelled)}
        for stream in streams:
            _check(stream, lists[stream.source], config, processes)
        single_pass = config.trainer.iterations_per_epoch is None and all(s.source == "labelled" for s in streams)
        self.iterations_per_epoch = config.trainer.iterations_per_epoch or _one_pass(lists, config, single_pass)
        self._plan = _Plan(
            dataset, lists, tuple(streams), config, self.iterations_per_epoch, single_pass, process, processes
        )
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` from ``first_step`` on: the same ones that the whole epoch yields there."""
        steps = range(first_step, self.iterations_per_epoch)
        workers = self._plan.config.loader.workers
        if workers == 0:
            yield from (self._plan.batch(epoch, step) for step in steps)
            return
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(self._plan,))
        waiting = deque()
        try:
            for step in steps:
                waiting.append(self._pool.submit(_make_batch, epoch, step))
                if len(waiting) > workers * self._plan.config.loader.prefetch:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            self._pool = None
            raise UserError(
                "a data loader worker died (usually out of memory): use a smaller loader.workers, loader.prefetch or batch"
            ) from None
        finally:
            for future in waiting:
                future.cancel()


def _check(stream: Stream, ids: Sequence[str], config: ExperimentConfig, processes: int) -> None:
    if not ids:
        raise UserError(f"the {stream.source} list of split {config.split.id} is empty: {config.name} needs at least one image")
    size = batch_size(config, stream.source)
    if size % processes:
        raise UserError(f"loader.batch_{stream.source} = {size} does not divide among {processes} processes")


def _one_pass(lists: dict[str, tuple[str, ...]], config: ExperimentConfig, single_pass: bool) -> int:
    source = "labelled" if single_pass else "unlabelled"
    count, size = len(lists[source]), batch_size(config, source)
    steps = -(-count // size) if single_pass and config.loader.last_batch != "drop" else count // size
    if steps == 0:
        raise UserError(
            f"loader.batch_{source} = {size} is larger than the {source} list ({count} images): "
            "use a smaller batch or set trainer.iterations_per_epoch"
        )
    return steps


_worker_plan: _Plan | None = None


def _start_worker(plan: _Plan) -> None:
    """Prepare a worker: one thread of work, no part in Ctrl-C, an end with its parent."""
    global _worker_plan
    _worker_plan = plan
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _make_batch(epoch: int, step: int) -> Batch:
    return _worker_plan.batch(epoch, step)
