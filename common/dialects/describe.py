"""What a file of another program holds, from its names and shapes alone: which network, how many classes, which branches.

Such files do not describe themselves. The authors' networks are presets of ``configs/networks``; depth, heads and numbers
of classes are read off the tensors. What no tensor shows (dilations, pooling, order of concatenation) is the preset's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.config import AugmentConfig, NetworkConfig
from common.dialects.rules import Dialect
from common.documents import read_yaml
from common.networks import RESNETS
from common.paths import CONFIGS
from common.strict import build, to_plain
from common.tensors import Tensors

SUBCLASS = "_subclass"
"""Ends the name of every module of a network's subclass branch (``specs/usrn.md`` section 3.5)."""
CLASS_BRANCH, SUBCLASS_BRANCH = "class", "subclass"
"""Roles that a network with two branches can be reduced to."""
NAMED_CLASSES = {21: "voc", 19: "cityscapes"}
"""Data sets whose number of classes the authors' published networks have."""


def describe(dialect: Dialect, tensors: Tensors, configs: Path = CONFIGS) -> dict[str, Any]:
    """Return ``network``, ``classes``, ``mean`` and ``std`` for ``meta``; empty where the tensors do not tell.

    ``tensors`` are one network's in neutral names. The authors all normalise with ImageNet's mean and deviation.
    """
    blocks = _blocks(tensors)
    encoder = next((name for name, spec in RESNETS.items() if blocks and spec.blocks[: len(blocks)] == blocks), None)
    project = tensors.get("classifier.project.weight")
    if not dialect.preset or encoder is None or project is None:
        return {}
    name = f"networks/{dialect.preset}.yaml"
    values = read_yaml(configs / name, name) | {
        "encoder": encoder,
        "representation": _rows(tensors, "representation.project.weight"),
        "auxiliary": "auxiliary.project.weight" in tensors,
        "subclasses": _rows(tensors, "classifier_subclass.project.weight"),
        "prototypes": _rows(tensors, "prototypes") // project.shape[0],
        "backbone_weights": None,
    }
    augment = AugmentConfig()
    return {
        "network": to_plain(build(NetworkConfig, values, {"": name})),
        "classes": list(class_names(project.shape[0], configs)),
        "mean": list(augment.mean),
        "std": list(augment.std),
    }


def class_names(count: int, configs: Path = CONFIGS) -> Sequence[str]:
    """Return the names of VOC's 21 or Cityscapes' 19 classes, else ``class 0`` and so on."""
    if count not in NAMED_CLASSES:
        return [f"class {index}" for index in range(count)]
    name = f"datasets/{NAMED_CLASSES[count]}.yaml"
    return read_yaml(configs / name, name)["dataset"]["classes"]


def has_branches(tensors: Tensors) -> bool:
    """Whether a network has a subclass branch beside its class branch."""
    return any(SUBCLASS in name for name in tensors)


def branch(tensors: Tensors, meta: dict[str, Any], role: str) -> tuple[Tensors, dict[str, Any]]:
    """Return one branch of a network with two as a network of its own, and the ``meta`` that goes with it.

    The branches share the stem and ``layer1``. The classes of the subclass branch are numbered.
    """
    meta = {**meta, "role": role}
    if "network" in meta:
        meta["network"] = {**meta["network"], "subclasses": 0}
    if role == CLASS_BRANCH:
        return {name: array for name, array in tensors.items() if SUBCLASS not in name}, meta
    own = {name.replace(SUBCLASS, ""): array for name, array in tensors.items() if SUBCLASS in name}
    heads = ("encoder.", "decoder.", "classifier.")
    shared = {name: array for name, array in tensors.items() if name.startswith(heads) and SUBCLASS not in name}
    if "classes" in meta:
        meta["classes"] = [f"subclass {index}" for index in range(_rows(own, "classifier.project.weight"))]
    return {name: own.get(name, array) for name, array in shared.items()}, meta


def _blocks(tensors: Tensors) -> tuple[int, ...]:
    """Number of residual blocks of every stage, stage by stage."""
    found: dict[str, set[str]] = {}
    for name in tensors:
        parts = name.split(".")
        if parts[0] == "encoder" and parts[1].startswith("layer") and SUBCLASS not in parts[1]:
            found.setdefault(parts[1], set()).add(parts[2])
    return tuple(len(found[stage]) for stage in sorted(found))


def _rows(tensors: Tensors, name: str) -> int:
    return tensors[name].shape[0] if name in tensors else 0
