"""Which samples every step of every epoch shows, known in advance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from common.config.loaders import LabelledList, LoaderConfig, RepeatedLists, ReplayedList
from common.config.schema import ExperimentConfig
from common.errors import UserError
from common.loading.orders import Choice, Order, Permutations, Repeated, Uniform
from common.methods.groups import Groups
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
        sources = {stream.source for stream in streams}
        self._batch = {source: getattr(config.loader, f"batch_{source}") for source in sources}
        self._streams, self._seed = tuple(streams), config.trainer.seed
        self._groups = Groups(config.trainer.groups or processes, process, processes)
        # An epoch passes over the unlabelled list, usually the longer one; the labelled list is repeated as needed.
        self._leading = "unlabelled" if "unlabelled" in sources else "labelled"
        keeps = isinstance(config.loader, LabelledList) and config.loader.last_batch == "keep"
        self._keeps_rest = keeps and not config.trainer.iterations_per_epoch
        self._check(split.id)
        self.iterations_per_epoch = self._count(config)
        self._round = self._steps_of_round(config)
        self._orders = {stream.name: self._order(stream, config.loader) for stream in streams}

    def tasks(self, epoch: int, first_step: int = 0) -> Iterator[list[Task]]:
        """Yield the tasks of this process for every step of ``epoch`` from ``first_step`` on, all streams together."""
        orders = {stream.name: self._ids(stream, epoch) for stream in self._streams}
        for step in range(first_step, self.iterations_per_epoch):
            tasks = []
            for stream in self._streams:
                total = self._batch[stream.source]
                drawn = step % self._round if stream.source == "labelled" else step
                ids = orders[stream.name][drawn * total : (drawn + 1) * total]
                chosen = self._chosen(stream, list(enumerate(ids)), epoch, drawn)
                mine = (chosen[place] for place in self._groups.rows(len(chosen)))
                tasks += [Task(stream.name, image_id, epoch, drawn, position) for position, image_id in mine]
            yield tasks

    def _chosen(self, stream: Stream, entries: list[tuple[int, str]], epoch: int, step: int) -> list[tuple[int, str]]:
        """Positions and ids of the samples that the stream prepares of its ``entries`` of one step."""
        if stream.one_of == 1 and stream.probability == 1:
            return entries
        rng = generator(self._seed, f"choice {stream.name}", epoch, step)
        return Choice(stream.one_of, stream.probability).of(entries, rng)

    def _ids(self, stream: Stream, epoch: int) -> list[str]:
        """The ids that one epoch takes from a stream's list."""
        needed = self.iterations_per_epoch * self._batch[stream.source]
        if self._keeps_rest:  # filled up, so that all groups are equal
            needed = -(-len(self._lists[stream.source]) // self._groups.total) * self._groups.total
        rng = generator(self._seed, f"order {self._leader(stream).name}", epoch)
        return self._orders[stream.name].epoch(needed, rng)

    def _order(self, stream: Stream, loader: LoaderConfig) -> Order:
        ids = self._lists[stream.source]
        if isinstance(loader, RepeatedLists) and loader.samples is not None:
            truncate = loader.truncate_unlabelled and stream.source == "unlabelled"
            return Repeated(ids, loader.samples, loader.tail, truncate)
        if stream.order == "uniform":
            return Uniform(ids)
        return Permutations(ids, len(self._lists[self._leader(stream).source]))

    def _leader(self, stream: Stream) -> Stream:
        """The stream whose order ``stream`` takes: the one it follows, unless that has fewer images, else itself."""
        followed = [other for other in self._streams if other.name == stream.follows]
        longer = [other for other in followed if len(self._lists[other.source]) >= len(self._lists[stream.source])]
        return longer[0] if longer else stream

    def _steps_of_round(self, config: ExperimentConfig) -> int:
        """Steps after which the labelled stream gives the very samples of the epoch's first steps again."""
        if isinstance(config.loader, ReplayedList) and config.loader.labelled_replay == "cached":
            steps = config.method.round_steps(len(self._lists["labelled"]), self._batch["labelled"], self._groups.total)
            return max(steps, 1)
        return self.iterations_per_epoch

    def _count(self, config: ExperimentConfig) -> int:
        """Iterations per epoch: as set, else the method's rule, else one pass."""
        if config.trainer.iterations_per_epoch is not None:
            return config.trainer.iterations_per_epoch
        labelled = len(self._lists["labelled"])
        steps = config.method.steps_per_epoch(labelled, self._batch["labelled"], self._groups.total)
        if steps is not None:
            return self._full_batches("labelled", steps)
        length, batch, loader = len(self._lists[self._leading]), self._batch[self._leading], config.loader
        if isinstance(loader, RepeatedLists) and loader.samples is not None:
            if loader.samples < batch:
                raise UserError(
                    f"loader.samples = {loader.samples} do not fill one batch of loader.batch_{self._leading} = {batch}; "
                    "raise it"
                )
            return loader.samples // batch
        if isinstance(loader, LabelledList) and loader.last_batch != "drop":
            return -(-length // batch)
        return self._full_batches(self._leading, length // batch)

    def _full_batches(self, source: str, steps: int) -> int:
        if steps < 1:
            raise UserError(
                f"{len(self._lists[source])} {source} images do not fill one batch of loader.batch_{source} = "
                f"{self._batch[source]}; lower it or set trainer.iterations_per_epoch"
            )
        return steps

    def _check(self, split_id: str) -> None:
        for source in dict.fromkeys(stream.source for stream in self._streams):
            if not self._lists[source]:
                raise UserError(
                    f"split {split_id} has no {source} images, but the method needs them; choose another split"
                )
            if self._batch[source] % self._groups.total:
                raise UserError(
                    f"loader.batch_{source} = {self._batch[source]} does not fall into {self._groups.total} equal groups "
                    f"(trainer.groups); use a multiple of {self._groups.total}"
                )
        for stream in self._streams:
            if self._batch[stream.source] // self._groups.total % stream.one_of:
                raise UserError(
                    f"loader.batch_{stream.source} = {self._batch[stream.source]}: the method keeps one of every "
                    f"{stream.one_of} images, so use a multiple of {stream.one_of * self._groups.total}"
                )
