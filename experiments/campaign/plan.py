"""A campaign file: which experiments, seeds, frameworks and settings, and the single runs that follow from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config.schema import ExperimentConfig
from common.config.strict import build, ranged, to_plain
from common.config.yaml_files import read_yaml
from common.errors import UserError
from common.experiment import compose
from common.runtimes import FRAMEWORKS

MACHINE_KEYS = {"trainer": ("device", "threads", "health_images"), "loader": ("workers",), "dataset": ("root", "cache")}
"""Settings that say where a run happens and what it looks at, not what it computes: runs that differ in them are the same run."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Experiments that are run alike: every one with each of the seeds of each framework.

    ``overrides`` are settings ``a.b=c`` over the experiments' own; ``label`` names what they change ("without mixing"). ``page``
    is a page of the project that shows these experiments, too, in its part "campaign".
    """

    experiments: tuple[str, ...]
    torch: tuple[int, ...] = ()
    mindspore: tuple[int, ...] = ()
    overrides: tuple[str, ...] = ()
    label: str = ""
    page: str = ""


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """``title`` and ``text`` head the page; gains are over the method ``baseline`` on the same split.

    ``band`` is how far, in points of mIoU, a row may lie from a score that its authors publish. After ``hours`` a call saves
    its trainings and stops, as with ``--hours`` (None: when all is done). ``overrides`` hold for all groups. ``rows_of`` names
    campaigns beside this one whose rows count here where the recipe is the same. ``page`` is a page of the project that shows the
    first split's methods, one line each, in its part "campaign".
    """

    title: str
    text: str = ""
    baseline: str = "suponly"
    band: float = ranged(1.0, low=0)
    hours: float | None = ranged(None, low=0)
    overrides: tuple[str, ...] = ()
    rows_of: tuple[str, ...] = ()
    page: str = ""
    groups: tuple[Group, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: ``settings`` are all overrides, the seed last; ``config`` is what they compose to; ``page``: see the group."""

    experiment: str
    framework: str
    seed: int
    label: str
    page: str
    settings: tuple[str, ...]
    config: ExperimentConfig

    @property
    def name(self) -> str:
        """The name of the run's folder and log, one per run of a campaign."""
        return self.name_of(self.framework, self.experiment, self.label, self.seed)

    @staticmethod
    def name_of(framework: str, experiment: str, label: str, seed: int) -> str:
        """Return the name of the run with these properties."""
        parts = [framework, *experiment.split("/"), *label.split(), f"seed{seed}"]
        return "-".join("".join(c if c.isalnum() or c in "_." else "_" for c in part) for part in parts)

    @property
    def method(self) -> str:
        """The method file, with the label of its group: what a table's row is called."""
        return " ".join(filter(None, [self.experiment.rpartition("/")[2], self.label]))

    @property
    def split(self) -> str:
        """``DATASET/SPLIT``."""
        return self.experiment.rpartition("/")[0]


def read_campaign(path: Path) -> Campaign:
    """Return the campaign that a YAML file describes; raises :class:`UserError` naming file and key."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: must be a mapping with title and groups")
    return build(Campaign, values, {"": str(path)})


def runs_of(campaign: Campaign) -> list[Run]:
    """Return every run, in the file's order, seed by seed so that a first table is there early.

    Raises :class:`UserError` for a run that the file names twice, and for an experiment that does not compose.
    """
    runs: dict[str, Run] = {}
    for group in campaign.groups:
        for framework in FRAMEWORKS:
            for seed in getattr(group, framework):
                for experiment in group.experiments:
                    settings = (*campaign.overrides, *group.overrides, f"trainer.seed={seed}")
                    run = Run(
                        experiment=experiment, framework=framework, seed=seed, label=group.label, page=group.page,
                        settings=settings, config=compose(experiment, settings),
                    )  # fmt: skip
                    if run.name in runs:
                        raise UserError(f"the run {run.name} is named twice; give one group a label")
                    runs[run.name] = run
    return list(runs.values())


def recipe(config: ExperimentConfig) -> dict[str, Any]:
    """Return what a run computes as plain values: its configuration without what only the machine decides."""
    plain = to_plain(config)
    for section, keys in MACHINE_KEYS.items():
        for key in keys:
            plain[section].pop(key, None)
    plain.pop("reference", None)
    plain["trainer"]["groups"] = plain["trainer"]["groups"] or 1  # a campaign trains each run in one process
    return plain


def digest(values: dict[str, Any]) -> str:
    """SHA-256 of plain values in canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
