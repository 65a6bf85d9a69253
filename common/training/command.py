"""The training command of either framework: compose, check, open the run folder, train."""

from __future__ import annotations

import argparse
import dataclasses
import itertools

from common.check_data.classes import class_notes
from common.command_line import experiment_arguments, user_path
from common.config.loaders import LabelledList
from common.config.schema import ExperimentConfig, Reference, TrainerConfig
from common.config.strict import to_plain
from common.datasets.file_dataset import Dataset, open_dataset
from common.errors import UserError
from common.experiment import compose, dump, load
from common.loading.plan import Plan
from common.methods.groups import Groups
from common.runs.run_folder import RunFolder, default_run_folder
from common.runtimes import FRAMEWORKS
from common.splits.resolve import resolve
from common.splits.split import Split
from common.training.trainer import Framework, Trainer


def parser(framework: str) -> argparse.ArgumentParser:
    """Return the argument parser of ``python -m FRAMEWORK_impl.train``."""
    arguments = argparse.ArgumentParser(
        prog=f"python -m {framework}_impl.train",
        description=f"Train an experiment in {FRAMEWORKS[framework].title}.",
    )
    experiment_arguments(arguments)
    arguments.add_argument("--run-dir", type=user_path, help="run folder (default: runs/FRAMEWORK/EXPERIMENT)")
    arguments.add_argument(
        "--resume", action="store_true", help="continue the run in the run folder exactly where it stopped"
    )
    arguments.add_argument("--overwrite", action="store_true", help="start anew in a run folder that is already used")
    return arguments


def train(framework: Framework, arguments: argparse.Namespace) -> None:
    """Run the whole command: compose the experiment, open or continue its run folder, train."""
    config = compose(arguments.experiment, arguments.overrides)
    process, processes = framework.join(config.trainer.device)
    folder = RunFolder(arguments.run_dir or default_run_folder(framework.runtime.name, config.name))
    if folder.config.exists() and not arguments.resume and not arguments.overwrite:
        raise UserError(
            f"run folder {folder.path} is already used: --resume continues it, --overwrite starts anew, --run-dir chooses another"
        )
    dataset = open_dataset(config.dataset)
    split = resolve(dataset, config.split)
    config = config.method.complete(config, split, framework.runtime.name)
    if arguments.resume:
        config = _same_config(config, folder)
    config = with_groups(config, process, processes)
    check_lists(split, dataset)
    check_batches(config)
    class_lines = class_notes(dataset, split)
    # Raises if lists and batch sizes do not fit, before anything is written.
    check_accumulation(config.trainer, Plan(split, config.streams(), config).iterations_per_epoch)
    if config.evaluation.branch == "mean":
        raise UserError(
            "evaluation.branch = mean is for the evaluation of both branches; training keeps one: use 1 or 2"
        )
    method, notes = framework.make_method(config)
    notes += config.method.warnings(len(dataset.classes)) + batch_warnings(config, split) + class_lines
    notes += reference_notes(config.reference)
    method.processes.wait()  # all have looked into the folder
    if not arguments.resume and process == 0:
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


def with_groups(config: ExperimentConfig, process: int = 0, processes: int = 1) -> ExperimentConfig:
    """Return ``config`` with a number of groups, by default one for each of the ``processes``, which must divide it."""
    groups = Groups(config.trainer.groups or processes, process, processes)
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, groups=groups.total))


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
    for source in config.method.passed_alone:
        if getattr(config.loader, f"batch_{source}") == 1:
            raise UserError(
                f"loader.batch_{source} = 1: method {config.method.name} passes {source} images on their own, and BatchNorm "
                "over the pooled map needs at least two; use a larger batch"
            )


def check_accumulation(trainer: TrainerConfig, iterations_per_epoch: int) -> None:
    """Raise :class:`UserError` if an epoch would end between two steps of the optimiser."""
    if iterations_per_epoch % trainer.accumulate:
        whole = iterations_per_epoch - iterations_per_epoch % trainer.accumulate
        raise UserError(
            f"trainer.accumulate = {trainer.accumulate} does not divide the {iterations_per_epoch} batches of an epoch; set "
            f"trainer.iterations_per_epoch={whole or trainer.accumulate} or another accumulate"
        )


def batch_warnings(config: ExperimentConfig, split: Split) -> list[str]:
    """Return one line for every kind of batch that holds a single image: BatchNorm over the pooled map has no variance then."""
    count, batches = len(split.labelled), {}
    for stream in config.streams():
        key = f"batch_{stream.source}"
        batches[key] = getattr(config.loader, key) // stream.one_of, getattr(config.loader, key)
    keeps = isinstance(config.loader, LabelledList) and config.loader.last_batch == "keep"
    kept_short = keeps and not config.trainer.iterations_per_epoch
    single = [f"loader.{key} = {size}" for key, (images, size) in batches.items() if images == 1]
    if kept_short and not single and count % config.loader.batch_labelled == 1:
        single = [f"the last batch of {count} images in batches of {config.loader.batch_labelled}"]
    return [
        f"warning: {what} means one image at a time: BatchNorm over the pooled map then uses its running statistics"
        for what in single
    ]


def _same_config(config: ExperimentConfig, folder: RunFolder) -> ExperimentConfig:
    """Return the run's own configuration after checking that the command line asks for no other one."""
    if not folder.config.exists():
        raise UserError(f"nothing to resume: {folder.config} does not exist; start without --resume")
    saved = load(folder.config)
    if config.trainer.groups is None:
        config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, groups=saved.trainer.groups))
    if saved != config:
        asked, kept = _flat(to_plain(config)), _flat(to_plain(saved))
        different = [key for key in kept if kept[key] != asked.get(key)] + [key for key in asked if key not in kept]
        listed = ", ".join(f"{key} ({kept.get(key)} in the run, {asked.get(key)} now)" for key in different[:5])
        raise UserError(
            f"{folder.config} differs from what is asked for in {listed}: resume with the run's own settings or choose "
            "another --run-dir"
        )
    return saved


def _flat(values: dict, where: str = "") -> dict:
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return flat
