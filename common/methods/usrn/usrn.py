"""USRN: settings of the baseline (stage A) and of subclass regularisation (stages B2 and C), shared by both frameworks.

Source: the authors' ``main.sh``, ``main.py`` and ``configs/``; ``docs/methods/usrn.md`` lists the switches.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from common.config.loaders import LoaderConfig, ReplayedList
from common.config.schema import AugmentConfig, CountedSteps, ExperimentConfig, NetworkConfig
from common.config.strict import ranged
from common.errors import UserError
from common.methods.interface import OWN_LABEL, MethodSettings, Stream
from common.methods.usrn.augment import LabelledAndUnlabelledCrop, LabelledCrop
from common.methods.usrn.subclasses import LabelFolder, check_counts, digest, file_stem, read_description
from common.paths import at_home
from common.runs.run_folder import default_run_folder

if TYPE_CHECKING:
    from common.splits.split import Split

BASELINE = "usrn_baseline"
SUBCLASS_LABELS = "subclass_labels"
"""Folder of subclass label images in the baseline's run folder."""


@dataclass(frozen=True, kw_only=True)
class _EpochSettings(MethodSettings):
    """Length of an epoch.

    ``global``: floor(labelled images / batch) steps. ``per_process``: what the authors' program does on several GPUs, each with
    a group of the batch (``trainer.groups``), where an epoch is that many times longer.
    """

    optimizer: ClassVar = CountedSteps

    iters_rule: Literal["global", "per_process"] = "global"

    def round_steps(self, labelled: int, batch: int, groups: int = 1) -> int:
        """Return the steps of one pass over the labelled list."""
        if self.iters_rule == "global":
            return labelled // batch
        return -(-labelled // groups) // (batch // groups)


@dataclass(frozen=True, kw_only=True)
class USRNBaselineSettings(_EpochSettings):
    """Stage A: supervised training on the labelled list."""

    augment: ClassVar = LabelledCrop
    loader: ClassVar = LoaderConfig

    name: Literal["usrn_baseline"] = BASELINE

    def streams(self, augment: AugmentConfig) -> tuple[Stream, ...]:
        """The labelled images."""
        return (Stream(name="labelled", source="labelled", pipeline=augment, labels=OWN_LABEL),)

    def steps_per_epoch(self, labelled: int, batch: int, groups: int = 1) -> int:
        """One pass over the labelled list."""
        return self.round_steps(labelled, batch, groups)


@dataclass(frozen=True, kw_only=True)
class ClusteringSettings:
    """Stage B2. ``sample``: find a class's centres on so many of its points only (null: on all),
    then assign all of them; ``max_rounds`` null: until no assignment changes."""

    quantise: Literal["int16", "none"] = "int16"
    sample: int | None = ranged(None, low=1)
    max_rounds: int | None = ranged(None, low=1)


@dataclass(frozen=True, kw_only=True)
class USRNSettings(_EpochSettings):
    """Stages B2 and C; defaults are the authors'.

    ``subclass_counts`` are the numbers K_c, the authors' table where it has the split; empty: the rule of
    :func:`common.methods.usrn.subclasses.counts_by_share` with ``subclass_share``. ``subclass_labels`` is the folder of the label images,
    ``subclass_digest`` their digest; :meth:`complete` fills in what is empty.
    """

    augment: ClassVar = LabelledAndUnlabelledCrop
    loader: ClassVar = ReplayedList
    heads: ClassVar = ("subclasses",)

    name: Literal["usrn"] = "usrn"
    threshold: float = ranged(0.75, low=0.0, high=1.0)
    subclass_weight: float = ranged(1.0, low=0.0)
    unsup_weight: float = ranged(1.0, low=0.0)
    sup_weight: float = ranged(1.0, low=0.0)
    start_epoch: int = ranged(0, low=0)
    pooled: bool = True
    subclass_counts: tuple[int, ...] = ranged((), low=1)
    subclass_share: float = ranged(0.0088, low=1e-6, high=1.0)
    subclass_labels: str = ""
    subclass_digest: str = ""
    clustering: ClusteringSettings = ClusteringSettings()

    def streams(self, augment: LabelledAndUnlabelledCrop) -> tuple[Stream, ...]:
        """Labelled images with both labels, unlabelled ones in two views."""
        return (
            Stream(
                name="labelled", source="labelled", pipeline=augment,
                labels=OWN_LABEL | {"subclass": LabelFolder(self.subclass_labels)},
            ),
            Stream(name="unlabelled", source="unlabelled", pipeline=augment.unlabelled),
        )  # fmt: skip

    def steps_per_epoch(self, labelled: int, batch: int, groups: int = 1) -> int:
        """Return the steps of one pass; ``per_process`` leaves the sampler's rounding out, unlike the baseline."""
        if self.iters_rule == "global":
            return labelled // batch
        return labelled // (batch // groups)

    def check(self, network: NetworkConfig) -> None:
        """Raise :class:`ValueError` for numbers of subclasses that are impossible or not the network's."""
        check_counts(self.subclass_counts)
        if self.subclass_counts and network.subclasses not in (0, sum(self.subclass_counts)):
            raise ValueError(
                f"network.subclasses = {network.subclasses}, but method.subclass_counts sum up to "
                f"{sum(self.subclass_counts)}; leave network.subclasses at 0 to take the sum"
            )

    def warnings(self, classes: int) -> list[str]:
        """What is probably not meant, one line each."""
        if self.threshold >= 0.5:
            return []
        return [
            f"warning: method.threshold = {self.threshold} lets the subclass branch change labels of the class branch, which "
            "the published setting (0.75) does not"
        ]

    def complete(self, config: ExperimentConfig, split: Split, framework: str) -> ExperimentConfig:
        """Return ``config`` with the subclass labels' folder, digest and numbers, after checking that they fit ``split``.

        Raises :class:`UserError` if they are missing, made for another split, from other numbers K_c, or have changed.
        """
        folder = self._folder(config, framework)
        dataset, split_name, _ = config.name.split("/")
        command = f"bash experiments/usrn.sh {framework} {dataset}/{split_name}"
        made = read_description(folder, command)
        if (made.dataset, made.split_digest) != (config.dataset.name, split.digest):
            raise UserError(
                f"the subclass labels in {folder} were made for {made.dataset}/{made.split} (digest "
                f"{made.split_digest[:12]}), not for {config.dataset.name}/{split.id} ({split.digest[:12]}), whose subclasses "
                f"have other numbers; make them: {command}"
            )
        if self.subclass_counts and self.subclass_counts != made.counts:
            raise UserError(
                f"the subclass labels in {folder} have subclass counts {_listed(made.counts)}, method.subclass_counts are "
                f"{_listed(self.subclass_counts)}; make the labels again: {command}"
            )
        if len(made.counts) != len(config.dataset.classes):
            raise UserError(
                f"the subclass labels in {folder} are of {len(made.counts)} classes; make them again: {command}"
            )
        files = [folder / f"{file_stem(config.dataset, image_id)}.png" for image_id in split.labelled]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise UserError(f"{folder} lacks {len(missing)} subclass labels, e.g. {missing[0]}; make them: {command}")
        subclass_digest = digest(files)
        if subclass_digest != made.digest or self.subclass_digest not in ("", subclass_digest):
            raise UserError(
                f"the subclass labels in {folder} have changed since they were made; make them again: {command}"
            )
        settings = dataclasses.replace(
            self, subclass_counts=made.counts, subclass_labels=str(folder), subclass_digest=subclass_digest
        )
        network = dataclasses.replace(config.network, subclasses=sum(made.counts))
        return dataclasses.replace(config, method=settings, network=network)

    def _folder(self, config: ExperimentConfig, framework: str) -> Path:
        if self.subclass_labels:
            return at_home(self.subclass_labels)
        return default_run_folder(framework, f"{config.name.rpartition('/')[0]}/{BASELINE}") / SUBCLASS_LABELS


def _listed(counts: tuple[int, ...]) -> str:
    return f"{' '.join(map(str, counts))} (sum {sum(counts)})"
