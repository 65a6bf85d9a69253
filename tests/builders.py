"""Configurations made by hand, for tests that need a few settings and no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.config.schema import (
    CriterionConfig,
    ExperimentConfig,
    Layout,
    NetworkConfig,
    Reference,
    SplitConfig,
    TrainerConfig,
)
from common.config.strict import member
from common.methods.presets import resolved
from common.methods.suponly import SupOnlySettings
from common.prediction.protocols import PROTOCOLS

SECTIONS = {
    "dataset": Layout, "split": SplitConfig, "network": NetworkConfig, "criterion": CriterionConfig,
    "trainer": TrainerConfig, "evaluation": PROTOCOLS, "reference": Reference,
}  # fmt: skip


def experiment(classes: int | Sequence[str], method: Any = None, **sections: Any) -> ExperimentConfig:
    """Return an experiment with ``classes`` (their number or names), ``method``'s settings and these sections.

    A section is its configuration or a mapping of some of its fields; the others have their defaults. Data set (drawn shapes),
    split and network (tiny) are stand-ins where nothing is said of them. Without a method the sections are as the supervised
    baseline's.
    """
    names = tuple(f"class{k}" for k in range(classes)) if isinstance(classes, int) else tuple(classes)
    stand_ins = {
        "dataset": {"name": "shapes", "layout": "shapes", "classes": names},
        "split": {"id": "by_hand"},
        "network": {"encoder": "tiny"},
    }
    method = None if method is None else resolved(method)
    settings = SupOnlySettings if method is None else method
    made, kinds = {}, SECTIONS | {name: getattr(settings, name) for name in ("augment", "loader", "optimizer")}
    for name, kind in kinds.items():
        section = sections.pop(name, {})
        if not isinstance(section, kind):
            values = stand_ins.get(name, {}) | section
            section = member(kind, values, {})(**values)
        made[name] = section
    if sections:
        raise TypeError(f"no sections: {', '.join(sections)}")
    title = f"{made['dataset'].name}/{made['split'].id}/{getattr(method, 'name', 'suponly')}"
    return ExperimentConfig(name=title, method=method, **made)
