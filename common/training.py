"""The training loop of every method and framework: epochs, logging, evaluation, checkpoints, resuming and stopping.

A framework supplies the method (:class:`common.method.Method`) and a function that writes its checkpoint file; everything
else is here, once.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common import snapshots
from common.checkpoints import FORMAT_VERSION, Checkpoint, read
from common.config import ExperimentConfig, Reference
from common.data.augment import normalise
from common.data.datasets import Dataset, open_dataset
from common.data.loader import Loader, Plan
from common.errors import CheckFailed, Interrupted, UserError
from common.evaluate import Evaluation, evaluate
from common.experiment import compose, dump, load
from common.method import Clock, Incomplete, Method, NonFiniteLoss
from common.palettes import colours
from common.pictures import comparison, write_png
from common.results import write_result
from common.runs import RunFolder, default_run_folder
from common.splits import Split, resolve
from common.strict import to_plain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Framework:
    """What a framework adds to the loop: its name, checkpoint suffix, the method's constructor and the file writer."""

    name: str
    suffix: str
    make_method: Callable[[ExperimentConfig], tuple[Method, list[str]]]
    save: Callable[[Path, Checkpoint], None]


def parser(framework: str) -> argparse.ArgumentParser:
    """Return the argument parser of ``python -m FRAMEWORK_impl.train``."""
    arguments = argparse.ArgumentParser(
        prog=f"python -m {framework}_impl.train",
        description=f"Train an experiment in {'PyTorch' if framework == 'torch' else 'MindSpore'}.",
    )
    arguments.add_argument("experiment", help="DATASET/SPLIT/METHOD, e.g. camvid/1_8/u2pl")
    arguments.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings, e.g. trainer.epochs=2")
    arguments.add_argument("--run-dir", type=Path, help="run folder (default: runs/FRAMEWORK/EXPERIMENT)")
    arguments.add_argument(
        "--resume", action="store_true", help="continue the run in the run folder exactly where it stopped"
    )
    arguments.add_argument("--overwrite", action="store_true", help="start anew in a run folder that is already used")
    return arguments


def train(framework: Framework, arguments: argparse.Namespace) -> None:
    """Run the whole command: compose the experiment, open or continue its run folder, train."""
    config = compose(arguments.experiment, arguments.overrides)
    folder = RunFolder(arguments.run_dir or default_run_folder(framework.name, config.name))
    if folder.config.exists() and not arguments.resume and not arguments.overwrite:
        raise UserError(
            f"run folder {folder.path} is already used: --resume continues it, --overwrite starts anew, --run-dir chooses another"
        )
    dataset = open_dataset(config.dataset)
    split = resolve(dataset, config.split)
    if isinstance(config.method, Incomplete):
        config = config.method.complete(config, split, framework.name)
    if arguments.resume:
        config = _same_config(config, folder)
    check_lists(split, dataset)
    check_batches(config)
    # Raises if lists and batch sizes do not fit, before anything is written.
    Plan(split, config.method.streams(), config)
    if config.evaluation.branch == "mean":
        raise UserError(
            "evaluation.branch = mean is for the evaluation of both branches; training keeps one: use 1 or 2"
        )
    method, notes = framework.make_method(config)
    notes += config.method.warnings(len(dataset.classes)) + batch_warnings(config, split)
    notes += reference_notes(config.reference)
    if not arguments.resume:
        folder.start(dump(config))
    with Trainer(framework, config, folder, dataset, split, method) as trainer:
        for note in [
            f"{config.name}: {len(split.labelled)} labelled, {len(split.unlabelled)} unlabelled images",
            *notes,
        ]:
            trainer.say(note)
        if arguments.resume:
            trainer.resume()
        trainer.run()


def reference_notes(reference: Reference) -> list[str]:
    """Return what the authors state about this experiment, empty where they report no score for it."""
    if reference.published_miou is None:
        return []
    parts = [reference.source, reference.hardware, reference.total_batch and f"total batch {reference.total_batch}"]
    lines = [f"the authors report mIoU {reference.published_miou:.2f} ({'; '.join(part for part in parts if part)})"]
    return lines + ([f"their command: {reference.command}"] if reference.command else [])


def check_lists(split: Split, dataset: Dataset) -> None:
    """Raise :class:`UserError` if an image is in two of the labelled, unlabelled and validation lists.

    Labelled images may be in the unlabelled list where the split says so (``split.unlabelled: all``).
    """
    lists = {"labelled": split.labelled, "unlabelled": split.unlabelled, "validation": dataset.val_ids}
    for first, second in itertools.combinations(lists, 2):
        shared = sorted(set(lists[first]) & set(lists[second]))
        if shared and not (split.overlapping and (first, second) == ("labelled", "unlabelled")):
            raise UserError(
                f"split {split.id}: {len(shared)} images are in the {first} and in the {second} list, e.g. {shared[0]}; "
                f"remove them from one of the lists (python -m common.check_data names them all)"
            )


def check_batches(config: ExperimentConfig) -> None:
    """Raise :class:`UserError` if the method would pass a single image through a network (``passed_alone`` of its settings)."""
    for source in getattr(config.method, "passed_alone", ()):
        if getattr(config.loader, f"batch_{source}") == 1:
            raise UserError(
                f"loader.batch_{source} = 1: method {config.method.name} passes {source} images on their own, and BatchNorm "
                "over the pooled map needs at least two; use a larger batch"
            )


def batch_warnings(config: ExperimentConfig, split: Split) -> list[str]:
    """Return one line for every kind of batch that holds a single image: BatchNorm over the pooled map has no variance then."""
    count, batches = len(split.labelled), {}
    for stream in config.method.streams():
        key = f"batch_{stream.source}"
        batches[key] = getattr(config.loader, key) // stream.one_of, getattr(config.loader, key)
    kept_short = len(batches) == 1 and config.loader.last_batch == "keep" and not config.trainer.iterations_per_epoch
    single = [f"loader.{key} = {size}" for key, (images, size) in batches.items() if images == 1]
    if kept_short and not single and count % config.loader.batch_labelled == 1:
        single = [f"the last batch of {count} images in batches of {config.loader.batch_labelled}"]
    return [
        f"warning: {what} means one image at a time: BatchNorm over the pooled map then uses its running statistics"
        for what in single
    ]


class Trainer:
    """One run from its first or next step to its end."""

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
        self.loader = Loader(dataset, split, config.method.streams(), config)
        self.last = folder.last(framework.suffix)
        self.best = folder.best(framework.suffix)
        self.iteration, self.best_miou = 0, -1.0
        self.stop_asked = False
        self.bar: tqdm | None = None

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.loader.close()

    def say(self, text: str) -> None:
        """Print one line, above the progress bar if there is one."""
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
        """Take back the state of the ``last`` checkpoint; the next step is the one that would have come."""
        if not self.last.exists():
            raise UserError(f"nothing to resume: {self.last} does not exist; start without --resume")
        checkpoint = read(self.last)
        self.method.restore(checkpoint.networks, checkpoint.state)
        self.iteration = checkpoint.meta["iteration"]
        self.best_miou = checkpoint.meta["best_miou"]
        self.folder.truncate_after(self.iteration)
        self.say(f"resumed at iteration {self.iteration}")

    def run(self) -> None:
        """Train to the end, or until asked to stop."""
        total = self.clock().total
        self.bar = tqdm(
            total=total, initial=self.iteration, unit="it", disable=not sys.stderr.isatty(), dynamic_ncols=True
        )
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
        for batch in self.loader.epoch(start.epoch, start.step):
            self._step(batch)
            if self.stop_asked and self.clock().epoch == start.epoch:
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
        if self.stop_asked and not finished:
            self._stop()

    def _announce_epoch(self) -> None:
        """Let a method with ``before_epoch`` look at the labelled images before the epoch that comes next."""
        if hasattr(self.method, "before_epoch"):
            for note in self.method.before_epoch(self.clock(), self._labelled_images()):
                self.say(note)

    def _labelled_images(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for image_id in self.split.labelled:
            planes = normalise(self.dataset.image(image_id), self.config.augment).transpose(2, 0, 1)
            yield np.ascontiguousarray(planes), self.dataset.label(image_id)

    def _stop(self) -> None:
        """Save and leave; an epoch that is complete has been evaluated before, so that a resumed run has its score."""
        self._save_last()
        raise Interrupted(f"stopped at iteration {self.iteration} and saved {self.last}: --resume continues")

    def _step(self, batch) -> None:
        clock, started = self.clock(), time.perf_counter()
        try:
            losses = self.method.step(batch, clock)
        except NonFiniteLoss as error:
            saved = f"the last checkpoint is {self.last}" if self.last.exists() else "no checkpoint has been saved yet"
            raise CheckFailed(
                f"iteration {clock.iteration}: {error}; the optimiser has not stepped, {saved}: "
                "lower optimizer.lr, or look at these images"
            ) from None
        self.iteration += 1
        self.bar.update()
        if self.iteration % self.config.trainer.log_every == 0 or self.iteration == clock.total:
            self.folder.log(
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
        outcome = evaluate(predictor, self.dataset, self.dataset.val_ids, self.config, False, keep_picture)
        self.folder.log(kind="evaluation", iteration=self.iteration, epoch=clock.epoch, miou=outcome.miou, role=role)
        self.say(
            f"epoch {clock.epoch + 1}/{clock.epochs} mIoU {100 * outcome.miou:.3f} ({role}, {outcome.images} images)"
        )
        if outcome.miou > self.best_miou:
            self.best_miou = outcome.miou
            self._save_best(role, outcome, pictures)

    def _save_best(self, role: str, outcome: Evaluation, pictures: list) -> None:
        meta = self._meta(role) | {"miou": outcome.miou}
        model = self.method.networks()[role]
        self.framework.save(self.best, Checkpoint(meta=meta, networks={"model": model}, state={}))
        write_result(
            self.folder.result, outcome, self.config, split_digest=self.split.digest, checkpoint=self.best, role=role
        )
        palette = colours(self.config.dataset.palette, len(self.dataset.classes))
        for image_id, image, label, prediction in pictures:
            write_png(self.folder.pictures / f"{image_id}.png", comparison(image, label, prediction, palette))

    def _save_snapshot(self, clock: Clock) -> None:
        path = self.folder.snapshot(clock.epoch, self.framework.suffix)
        meta = self._meta(self.method.evaluated(clock))
        self.framework.save(path, Checkpoint(meta=meta, networks=self.method.networks(), state={}))

    def _save_last(self) -> None:
        role = self.method.evaluated(self.clock() if self.iteration < self.clock().total else self._final_clock())
        meta = self._meta(role) | {"best_miou": self.best_miou}
        self.framework.save(
            self.last, Checkpoint(meta=meta, networks=self.method.networks(), state=self.method.state())
        )

    def _final_clock(self) -> Clock:
        return dataclasses.replace(self.clock(), epoch=self.config.trainer.epochs - 1)

    def _meta(self, role: str) -> dict:
        return {
            "format_version": FORMAT_VERSION,
            "experiment": self.config.name,
            "network": to_plain(self.config.network),
            "classes": list(self.config.dataset.classes),
            "mean": list(self.config.augment.mean),
            "std": list(self.config.augment.std),
            "method": self.config.method.name,
            "framework": self.framework.name,
            "role": role,
            "epoch": self.iteration // self.loader.iterations_per_epoch,
            "iteration": self.iteration,
        }

    @contextmanager
    def _stop_signals(self) -> Iterator[None]:
        """Let SIGTERM and Ctrl-C end the run after the current step; a second Ctrl-C ends it at once."""

        def ask(number, _frame) -> None:
            if self.stop_asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop_asked = True

        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _same_config(config: ExperimentConfig, folder: RunFolder) -> ExperimentConfig:
    """Return the run's own configuration after checking that the command line asks for no other one."""
    if not folder.config.exists():
        raise UserError(f"nothing to resume: {folder.config} does not exist; start without --resume")
    saved = load(folder.config)
    if saved != config:
        asked, kept = _flat(to_plain(config)), _flat(to_plain(saved))
        different = [key for key in kept if kept[key] != asked.get(key)] + [key for key in asked if key not in kept]
        raise UserError(
            f"{folder.config} differs from what is asked for in {', '.join(different[:5])}: resume with the run's own "
            f"settings (e.g. {different[0]}={kept.get(different[0])}) or choose another --run-dir"
        )
    return saved


def _flat(values: dict, where: str = "") -> dict:
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return flat
