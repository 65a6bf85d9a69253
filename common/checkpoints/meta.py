"""What a checkpoint says about itself and the network in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.config.schema import ExperimentConfig
from common.config.strict import build, to_plain

FORMAT_VERSION = 1
"""Version of this description and of the places of networks and state in a file; a reader refuses a higher one."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a file of another program comes from: its layout, and the plain values that it holds beside the networks."""

    dialect: str
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CheckpointMeta:
    """A checkpoint's description; None stands for what it does not say.

    ``network`` is the plain form of :class:`common.config.schema.NetworkConfig`, ``mean`` and ``std`` normalise RGB
    pixels in 0..255 per channel. ``role`` is the network to deploy, ``epoch`` the number of finished ones, ``miou`` that
    of this network and ``best_miou`` the run's so far, both in 0..1; ``data`` are digests of the lists and subclass labels
    that a run learns from. ``more`` are entries that this program does not know; they are kept.
    """

    format_version: int = FORMAT_VERSION
    origin: Origin | None = None
    experiment: str | None = None
    network: dict[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    method: str | None = None
    framework: str | None = None
    role: str | None = None
    epoch: int | None = None
    iteration: int | None = None
    miou: float | None = None
    best_miou: float | None = None
    data: dict[str, str] | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_experiment(cls, config: ExperimentConfig, **facts: Any) -> CheckpointMeta:
        """Return what an experiment tells of its network, with ``facts`` such as ``role`` and ``epoch``."""
        return cls(
            experiment=config.name,
            network=to_plain(config.network),
            classes=config.dataset.classes,
            mean=config.normalisation.mean,
            std=config.normalisation.std,
            method=config.method.name,
            **facts,
        )

    @classmethod
    def from_plain(cls, values: Mapping[str, Any], where: str) -> CheckpointMeta:
        """Return what :meth:`to_plain` wrote; raises :class:`UserError` naming ``where`` for an entry of a wrong type."""
        known = {name: value for name, value in values.items() if name in ENTRIES}
        more = {name: value for name, value in values.items() if name not in ENTRIES}
        return dataclasses.replace(build(cls, known, {"": where}), more=more)

    def to_plain(self) -> dict[str, Any]:
        """Return the entries that say something as plain JSON values, always in the same order."""
        values = {name: to_plain(getattr(self, name)) for name in ENTRIES if getattr(self, name) is not None}
        return values | to_plain(self.more)

    def completed_by(self, other: CheckpointMeta) -> CheckpointMeta:
        """Return this description with what it does not say taken from ``other``."""
        return dataclasses.replace(
            other, more=other.more | self.more,
            **{name: getattr(self, name) for name in ENTRIES if getattr(self, name) is not None},
        )  # fmt: skip


ENTRIES = tuple(entry.name for entry in dataclasses.fields(CheckpointMeta) if entry.name != "more")
"""Names of the known entries, in the order in which they are written."""
