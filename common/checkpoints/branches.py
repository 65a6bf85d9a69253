"""The class branch and the subclass branch of a network with two (USRN's ``models/model.py``)."""

from __future__ import annotations

import dataclasses

from common.checkpoints.meta import CheckpointMeta
from common.networks.tensors import Tensors

SUBCLASS = "_subclass"
"""Ends the name of every module of a network's subclass branch."""


CLASS_BRANCH, SUBCLASS_BRANCH = "class", "subclass"
"""Roles that a network with two branches can be reduced to."""


def has_branches(tensors: Tensors) -> bool:
    """Whether a network has a subclass branch beside its class branch."""
    return any(SUBCLASS in name for name in tensors)


def branch(tensors: Tensors, meta: CheckpointMeta, role: str) -> tuple[Tensors, CheckpointMeta]:
    """Return one branch of a network with two as a network of its own, and the ``meta`` that goes with it.

    The branches share the stem and ``layer1``. The classes of the subclass branch are numbered.
    """
    network = meta.network and {**meta.network, "subclasses": 0}
    meta = dataclasses.replace(meta, role=role, network=network)
    if role == CLASS_BRANCH:
        return {name: array for name, array in tensors.items() if SUBCLASS not in name}, meta
    subclass_tensors = {name.replace(SUBCLASS, ""): array for name, array in tensors.items() if SUBCLASS in name}
    heads = ("encoder.", "decoder.", "classifier.")
    shared = {name: array for name, array in tensors.items() if name.startswith(heads) and SUBCLASS not in name}
    if meta.classes is not None:
        rows = _rows(subclass_tensors, "classifier.project.weight")
        meta = dataclasses.replace(meta, classes=tuple(f"subclass {index}" for index in range(rows)))
    return {name: subclass_tensors.get(name, array) for name, array in shared.items()}, meta


def _rows(tensors: Tensors, name: str) -> int:
    return tensors[name].shape[0] if name in tensors else 0
