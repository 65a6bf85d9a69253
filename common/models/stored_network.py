"""One network of a checkpoint file with everything needed to build and feed it, checked against the experiment."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.checkpoints.branches import CLASS_BRANCH, branch
from common.checkpoints.checkpoint import read
from common.checkpoints.describe import described
from common.checkpoints.formats import SINGLE
from common.checkpoints.meta import CheckpointMeta
from common.config.schema import ExperimentConfig, NetworkConfig
from common.config.strict import to_plain
from common.config.unread import unread
from common.errors import UserError
from common.experiment import compose
from common.models.exported_graph import GraphMetadata
from common.networks.tensors import Tensors

TRAINING_ONLY = (
    "backbone_weights", "decoder_init", "zero_init_residual", "aspp_dropout", "aspp_dropout_kind", "head_dropout",
    "head_dropout_kind", "subclasses",
)  # fmt: skip
"""Settings of a network that do not change what its class branch computes in eval mode."""


@dataclass(frozen=True, kw_only=True)
class StoredNetwork:
    """What to build, the class names, the arrays by neutral name, which network it is and how images are normalised.

    ``mean`` and ``std`` are per channel of RGB pixels in 0..255; ``experiment`` is empty where nothing names it.
    """

    config: NetworkConfig
    classes: tuple[str, ...]
    tensors: Tensors
    role: str
    experiment: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_network(path: Path, role: str | None = None, experiment: ExperimentConfig | None = None) -> StoredNetwork:
    """Return the network of ``role`` (None: the one to deploy) from a checkpoint file, without a subclass branch.

    A file of another program does not describe its network; then ``experiment`` does, or without one what its names and
    shapes tell. Raises :class:`UserError` when nothing describes it, or when the file's description contradicts
    ``experiment``.
    """
    checkpoint = read(path, role=role).only(where=str(path))
    if experiment is None:
        checkpoint = described(checkpoint)
    meta = checkpoint.meta
    if experiment is not None:
        check_fits(meta, experiment, path)
    if experiment is not None and (meta.network is None or meta.classes is None):
        config, classes = experiment.network, experiment.dataset.classes
    else:
        config, classes = checkpoint.built_from(str(path))
    mean, std = _normalisation(meta, experiment, path)
    config, tensors = class_branch(config, checkpoint.networks[SINGLE])
    return StoredNetwork(
        config=config,
        classes=classes,
        tensors=tensors,
        role=meta.role or checkpoint.deployed_role(),
        experiment=meta.experiment or (experiment.name if experiment else ""),
        mean=mean,
        std=std,
    )


def class_branch(config: NetworkConfig, tensors: Tensors) -> tuple[NetworkConfig, Tensors]:
    """Return configuration and arrays of the class branch alone: what is evaluated and deployed."""
    return dataclasses.replace(config, subclasses=0), branch(tensors, CheckpointMeta(), CLASS_BRANCH)[0]


def check_fits(description: CheckpointMeta | GraphMetadata, experiment: ExperimentConfig, path: Path) -> None:
    """Raise :class:`UserError` naming the first thing in which a file's description contradicts the experiment."""
    if description.classes is not None:
        _check_classes(description.classes, experiment, path)
    if description.network is not None:
        _check_network(description.network, experiment, path)
    for key in ("mean", "std"):
        stated, asked = getattr(description, key), getattr(experiment.normalisation, key)
        if stated is not None and stated != asked:
            raise UserError(
                f"{path} was trained with augment.{key}={_text(stated)}, not {_text(asked)}; add this setting"
            )


def _check_classes(names: Sequence[str], experiment: ExperimentConfig, path: Path) -> None:
    dataset = experiment.dataset
    if len(names) != len(dataset.classes):
        raise UserError(
            f"{path} has {len(names)} classes but data set {dataset.name} has {len(dataset.classes)}; "
            "evaluate it on the data set it was trained on"
        )
    for index, (name, wanted) in enumerate(zip(names, dataset.classes)):
        if name != wanted:
            raise UserError(
                f"{path} calls class {index} {name!r} but data set {dataset.name} calls it {wanted!r}; "
                "evaluate it on the data set it was trained on"
            )


def _check_network(network: dict[str, Any], experiment: ExperimentConfig, path: Path) -> None:
    wanted = to_plain(experiment.network)
    idle = {option.partition(".")[2] for option in unread({"network": wanted}, {})}
    compared = [key for key in wanted if key not in TRAINING_ONLY and key not in idle]
    keys = [key for key in compared if network.get(key, wanted[key]) != wanted[key]]
    if keys:
        listed = ", ".join(f"network.{key}={_text(network[key])} (here {_text(wanted[key])})" for key in keys)
        raise UserError(
            f"{path} holds another network than {experiment.name}: {listed}; add these settings or choose another file"
        )


def _normalisation(
    meta: CheckpointMeta, experiment: ExperimentConfig | None, path: Path
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if meta.mean is not None and meta.std is not None:
        return meta.mean, meta.std
    if experiment is None and not meta.experiment:
        raise UserError(f"{path} does not say how its images are normalised; name the experiment it was trained in")
    normalisation = (experiment or compose(meta.experiment)).normalisation
    return normalisation.mean, normalisation.std


def _text(value: object) -> str:
    return str(list(value)).replace(" ", "") if isinstance(value, (list, tuple)) else str(value)
