"""The training loop of every method and framework: epochs, logging, evaluation, checkpoints, resuming and stopping.

A framework supplies the method (:class:`common.methods.interface.Method`) and a function that writes its checkpoint file; everything
else is here, once.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from common.checkpoints.checkpoint import Checkpoint, read
from common.checkpoints.formats import SINGLE
from common.checkpoints.meta import CheckpointMeta
from common.command_line import ending_signals
from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import Dataset
from common.errors import CheckFailed, Interrupted, UserError
from common.evaluation.evaluate import Evaluation, evaluate
from common.evaluation.results import absence, result, write_result
from common.images.normalise import planes
from common.loading.loader import Loader
from common.methods.interface import Clock, Method, NonFiniteLoss
from common.reports.palettes import colours
from common.reports.pictures import comparison, write_png
from common.runs import snapshots
from common.runs.run_folder import RunFolder
from common.runtimes import Runtime
from common.splits.split import Split
from common.training.data_digests import data_digests, require_same_data
from common.training.health import LabelAgreement


@dataclasses.dataclass(frozen=True, kw_only=True)
class Framework:
    """What a framework adds to the loop: which one it is, the method's constructor, the file writer, why the first step is slow.

    ``join`` meets the other processes, on a device, and returns this one's number and how many there are.
    """

    runtime: Runtime
    join: Callable[[str], tuple[int, int]]
    make_method: Callable[[ExperimentConfig], tuple[Method, list[str]]]
    save: Callable[[Path, Checkpoint], None]
    first_step: str = ""


class Trainer:
    """One run from its first or next step to its end; of several processes the first alone writes and prints."""

    def __init__(
        self,
        framework: Framework,
        config: ExperimentConfig,
        folder: RunFolder,
        dataset: Dataset,
        split: Split,
        method: Method,
    ) -> None:
        self.framework, self.config, self.folder = framework, config, folder
        self.dataset, self.split, self.method = dataset, split, method
        self.processes = method.processes
        self.first = self.processes.index == 0
        self.loader = Loader(
            dataset, split, config.streams(), config, self.processes.index, self.processes.count, method.eight_bit
        )
        self.data = data_digests(dataset, split, config)
        self.agreement = LabelAgreement(dataset, split.unlabelled, config)
        self.last = folder.last(framework.runtime.writes)
        self.best = folder.best(framework.runtime.writes)
        self.iteration, self.best_miou = 0, -1.0
        self.stop_asked = False
        self.waits = bool(framework.first_step)
        self.bar: tqdm | None = None

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.loader.close()

    def say(self, text: str) -> None:
        """Print one line, above the progress bar if there is one."""
        if not self.first:
            return
        if self.bar is not None and not self.bar.disable:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def clock(self) -> Clock:
        """Return where the run stands: the step that comes next."""
        each = self.loader.iterations_per_epoch
        epoch, step = divmod(self.iteration, each)
        return Clock(
            epoch=epoch,
            step=step,
            iteration=self.iteration,
            epochs=self.config.trainer.epochs,
            iterations_per_epoch=each,
        )

    def resume(self) -> None:
        """Take back the state of the ``last`` checkpoint; the next step is the one that would have come.

        Raises :class:`UserError` where there is none, or the data are not those that the run began with.
        """
        if not self.last.exists():
            raise UserError(f"nothing to resume: {self.last} does not exist; start without --resume")
        checkpoint = read(self.last)
        require_same_data(checkpoint.meta.data or {}, self.data, self.last)
        self.method.restore(checkpoint.networks, checkpoint.state)
        self.iteration = checkpoint.meta.iteration
        self.best_miou = checkpoint.meta.best_miou
        if self.first:
            self.folder.remove_unfinished()
            self.folder.truncate_after(self.iteration)
        self.say(f"resumed at iteration {self.iteration}")

    def run(self) -> None:
        """Train to the end, or until asked to stop."""
        total = self.clock().total
        self.bar = tqdm(
            total=total, initial=self.iteration, unit="it", dynamic_ncols=True,
            disable=not (self.first and sys.stderr.isatty()),
        )  # fmt: skip
        with self._stop_signals(), self.bar:
            if self.iteration == 0:
                self._announce_epoch()
            while self.iteration < total:
                self._epoch()
        self.say(f"done: best mIoU {100 * self.best_miou:.3f} ({self.best})")

    def _epoch(self) -> None:
        """Train the rest of the current epoch, then evaluate and save as configured."""
        start = self.clock()
        trainer = self.config.trainer
        for batch in self.method.batches(self.loader.epoch(start.epoch, start.step)):
            self._step(batch)
            whole_step = self.iteration % trainer.accumulate == 0
            if self._stopping() and whole_step and self.clock().epoch == start.epoch:
                self._stop()
        done, finished = start.epoch + 1, self.clock().iteration == start.total
        if not finished:
            self._announce_epoch()
        if done % trainer.evaluate_every == 0 or finished:
            self._evaluate(start)
        if snapshots.due(trainer, start.epoch):
            self._save_snapshot(start)
        if done % trainer.save_every == 0 or finished:
            self._save_last()
        self._agree()
        if self._stopping() and not finished:
            self._stop()

    def _stopping(self) -> bool:
        """Whether to stop; of several processes what all have agreed on, with the last step or since."""
        return self.processes.stopping if self.processes.count > 1 else self.stop_asked

    def _agree(self) -> None:
        """Learn whether any process was asked to stop."""
        if self.processes.count > 1:
            self.processes.asked = self.stop_asked
            self.processes.totals({})

    def _announce_epoch(self) -> None:
        """Let the method look at the labelled images before the epoch that comes next."""
        for note in self.method.before_epoch(self.clock(), self._labelled_images()):
            self.say(note)

    def _labelled_images(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for image_id in self.split.labelled:
            image = self.dataset.image(image_id)
            yield planes(image, self.config.normalisation), self.dataset.label(image_id)

    def _stop(self) -> None:
        """Save and leave; an epoch that is complete has been evaluated before, so that a resumed run has its score."""
        self._save_last()
        raise Interrupted(f"stopped at iteration {self.iteration} and saved {self.last}: --resume continues")

    def _step(self, batch) -> None:
        clock, started = self.clock(), time.perf_counter()
        if self.waits:
            self.say(self.framework.first_step)
        self.processes.asked = self.stop_asked
        try:
            losses = self.method.step(batch, clock)
        except NonFiniteLoss as error:
            saved = f"the last checkpoint is {self.last}" if self.last.exists() else "no checkpoint has been saved yet"
            raise CheckFailed(
                f"iteration {clock.iteration}: {error}; the optimiser has not stepped, {saved}: "
                "lower optimizer.lr, or look at these images"
            ) from None
        if self.waits:
            self.say(f"first step done in {time.perf_counter() - started:.0f} s")
            self.waits = False
        self.iteration += 1
        self.bar.update()
        if self.iteration % self.config.trainer.log_every == 0 or self.iteration == clock.total:
            self._log(
                kind="train", iteration=self.iteration, epoch=clock.epoch, losses=losses,
                seconds=round(time.perf_counter() - started, 4),
            )  # fmt: skip
            self.say(
                f"epoch {clock.epoch + 1}/{clock.epochs} iteration {self.iteration}/{clock.total} "
                + " ".join(f"{name} {value:.4f}" for name, value in losses.items())
            )

    def _evaluate(self, clock: Clock) -> None:
        """Validate the network that counts at this point; keep it, its result and its pictures if it is the best so far."""
        role = self.method.evaluated(clock)
        pictures = []

        def keep_picture(image_id, image, label, prediction) -> None:
            if len(pictures) < self.config.trainer.pictures:
                pictures.append((image_id, image, label, prediction))

        predictor = self.method.predictor(role)
        outcome = evaluate(
            predictor, self.dataset, self.dataset.val_ids, self.config, False, keep_picture, self.processes
        )
        self._log(
            kind="evaluation", iteration=self.iteration, epoch=clock.epoch, miou=outcome.miou,
            pixel_accuracy=outcome.pixel_accuracy, role=role, unlabelled=self.agreement.measure(predictor) if self.first else None,
        )  # fmt: skip
        note = absence(result(outcome, self.config, split_digest=self.split.digest, checkpoint=None))
        self.say(
            f"epoch {clock.epoch + 1}/{clock.epochs} mIoU {100 * outcome.miou:.3f} ({role}, {outcome.images} images"
            f"{note and f'; {note}'})"
        )
        if outcome.miou > self.best_miou:
            self.best_miou = outcome.miou
            self._save_best(role, outcome, pictures)

    def _log(self, **entry: Any) -> None:
        if self.first:
            self.folder.log(**entry)

    def _save(self, path: Path, checkpoint: Callable[[], Checkpoint]) -> None:
        """Let the first process write a checkpoint file while the others wait for it."""
        if self.first:
            self.framework.save(path, checkpoint())
        self.processes.wait()

    def _save_best(self, role: str, outcome: Evaluation, pictures: list) -> None:
        if not self.first:
            return
        meta = self._meta(role, miou=outcome.miou)
        model = self.method.networks()[role]
        self.framework.save(self.best, Checkpoint(meta=meta, networks={SINGLE: model}, state={}))
        write_result(
            self.folder.result, outcome, self.config, split_digest=self.split.digest, checkpoint=self.best, role=role
        )
        palette = colours(self.config.dataset.palette, len(self.dataset.classes))
        for image_id, image, label, prediction in pictures:
            write_png(self.folder.pictures / f"{image_id}.png", comparison(image, label, prediction, palette))

    def _save_snapshot(self, clock: Clock) -> None:
        path = self.folder.snapshot(clock.epoch, self.framework.runtime.writes)
        meta = self._meta(self.method.evaluated(clock))
        self._save(path, lambda: Checkpoint(meta=meta, networks=self.method.networks(), state={}))

    def _save_last(self) -> None:
        role = self.method.evaluated(self.clock() if self.iteration < self.clock().total else self._final_clock())
        meta = self._meta(role, best_miou=self.best_miou, data=self.data)
        self._save(self.last, lambda: Checkpoint(meta=meta, networks=self.method.networks(), state=self.method.state()))

    def _final_clock(self) -> Clock:
        return dataclasses.replace(self.clock(), epoch=self.config.trainer.epochs - 1)

    def _meta(self, role: str, **facts: Any) -> CheckpointMeta:
        return CheckpointMeta.from_experiment(
            self.config,
            framework=self.framework.runtime.name,
            role=role,
            epoch=self.iteration // self.loader.iterations_per_epoch,
            iteration=self.iteration,
            **facts,
        )

    @contextmanager
    def _stop_signals(self) -> Iterator[None]:
        """Let SIGTERM, SIGHUP and Ctrl-C end the run after the current step; a second Ctrl-C ends it at once."""

        def ask(number, _frame) -> None:
            if self.stop_asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop_asked = True

        before = {number: signal.signal(number, ask) for number in (*ending_signals(), signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
