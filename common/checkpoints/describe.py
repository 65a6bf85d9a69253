"""What a file of another program holds, from its names and shapes alone: which network, how many classes, which branches.

Such files do not describe themselves. The authors' networks are presets of ``configs/networks``; depth, heads and numbers
of classes are read off the tensors. What no tensor shows (dilations, pooling, order of concatenation) is the preset's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from common.checkpoints.branches import SUBCLASS, _rows
from common.checkpoints.checkpoint import Checkpoint, find_dialect
from common.checkpoints.dialects import Dialect
from common.checkpoints.meta import CheckpointMeta
from common.config.schema import NetworkConfig, Normalisation
from common.config.strict import build, to_plain
from common.config.yaml_files import read_yaml
from common.networks.plan import RESNETS
from common.networks.tensors import Tensors
from common.paths import CONFIGS

NAMED_CLASSES = {21: "voc", 19: "cityscapes"}
"""Data sets whose number of classes the authors' published networks have."""


def describe(dialect: Dialect, tensors: Tensors, configs: Path = CONFIGS) -> CheckpointMeta:
    """Return a description with ``network``, ``classes``, ``mean`` and ``std``; empty where the tensors do not tell.

    ``tensors`` are one network's in neutral names. The authors all normalise with ImageNet's mean and deviation.
    """
    blocks = _blocks(tensors)
    encoder = next((name for name, spec in RESNETS.items() if blocks and spec.blocks[: len(blocks)] == blocks), None)
    project = tensors.get("classifier.project.weight")
    if not dialect.preset or encoder is None or project is None:
        return CheckpointMeta()
    name = f"networks/{dialect.preset}.yaml"
    values = read_yaml(configs / name, name) | {
        "encoder": encoder,
        "representation": _rows(tensors, "representation.project.weight"),
        "auxiliary": "auxiliary.project.weight" in tensors,
        "subclasses": _rows(tensors, "classifier_subclass.project.weight"),
        "prototypes": _rows(tensors, "prototypes") // project.shape[0],
        "backbone_weights": None,
    }
    normalisation = Normalisation()
    return CheckpointMeta(
        network=to_plain(build(NetworkConfig, values, {"": name})),
        classes=tuple(class_names(project.shape[0], configs)),
        mean=normalisation.mean,
        std=normalisation.std,
    )


def class_names(count: int, configs: Path = CONFIGS) -> Sequence[str]:
    """Return the names of VOC's 21 or Cityscapes' 19 classes, else ``class 0`` and so on."""
    if count not in NAMED_CLASSES:
        return [f"class {index}" for index in range(count)]
    name = f"datasets/{NAMED_CLASSES[count]}.yaml"
    return read_yaml(configs / name, name)["dataset"]["classes"]


def _blocks(tensors: Tensors) -> tuple[int, ...]:
    """Number of residual blocks of every stage, stage by stage."""
    blocks: dict[str, set[str]] = {}
    for name in tensors:
        parts = name.split(".")
        if parts[0] == "encoder" and parts[1].startswith("layer") and SUBCLASS not in parts[1]:
            blocks.setdefault(parts[1], set()).add(parts[2])
    return tuple(len(blocks[stage]) for stage in sorted(blocks))


def described(checkpoint: Checkpoint) -> Checkpoint:
    """Add to the ``meta`` of another program's file what its names and shapes tell."""
    meta = checkpoint.meta
    if meta.origin is None or meta.network is not None:
        return checkpoint
    tensors = checkpoint.networks[checkpoint.deployed_role()]
    told = describe(find_dialect(meta.origin.dialect), tensors)
    return dataclasses.replace(checkpoint, meta=meta.completed_by(told))
