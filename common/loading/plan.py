"""Which samples every step of every epoch shows, known in advance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from common.config.schema import ExperimentConfig
from common.errors import UserError
from common.loading.sampling import sampled_order
from common.methods.interface import Stream
from common.rng import generator
from common.splits.split import Split


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
            self._round = max(config.method.round_steps(length, batch), 1)

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
        steps = config.method.steps_per_epoch(len(self._lists["labelled"]), self._batch["labelled"])
        if steps is not None:
            return self._checked(steps)
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

    def _checked(self, steps: int) -> int:
        if steps < 1:
            raise UserError(
                f"{len(self._lists['labelled'])} labelled images do not fill one batch of loader.batch_labelled = "
                f"{self._batch['labelled']}; lower it or set trainer.iterations_per_epoch"
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
