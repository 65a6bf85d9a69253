"""Configurations made by hand, for tests that need a few settings and no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.config.schema import (
    AugmentConfig,
    CriterionConfig,
    DatasetConfig,
    EvaluationConfig,
    ExperimentConfig,
    LoaderConfig,
    NetworkConfig,
    OptimizerConfig,
    Reference,
    SplitConfig,
    TrainerConfig,
)

SECTIONS = {
    "dataset": DatasetConfig, "split": SplitConfig, "network": NetworkConfig, "augment": AugmentConfig, "loader": LoaderConfig,
    "optimizer": OptimizerConfig, "criterion": CriterionConfig, "trainer": TrainerConfig, "evaluation": EvaluationConfig,
    "reference": Reference,
}  # fmt: skip


def experiment(classes: int | Sequence[str], method: Any = None, **sections: Any) -> ExperimentConfig:
    """Return an experiment with ``classes`` (their number or names), ``method``'s settings and these sections.

    A section is its configuration or a mapping of some of its fields; the others have their defaults. Data set (drawn shapes),
    split and network (tiny) are stand-ins where nothing is said of them.
    """
    names = tuple(f"class{k}" for k in range(classes)) if isinstance(classes, int) else tuple(classes)
    stand_ins = {
        "dataset": {"name": "shapes", "layout": "shapes", "classes": names},
        "split": {"id": "by_hand"},
        "network": {"encoder": "tiny"},
    }
    made = {}
    for name, kind in SECTIONS.items():
        section = sections.pop(name, {})
        made[name] = section if isinstance(section, kind) else kind(**stand_ins.get(name, {}) | section)
    if sections:
        raise TypeError(f"no sections: {', '.join(sections)}")
    title = f"{made['dataset'].name}/{made['split'].id}/{getattr(method, 'name', 'suponly')}"
    return ExperimentConfig(name=title, method=method, **made)
