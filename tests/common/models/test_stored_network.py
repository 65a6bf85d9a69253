"""What a checkpoint says about itself wins, must not contradict the experiment, and may be told by it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from common.checkpoints.checkpoint import Checkpoint, write
from common.checkpoints.meta import CheckpointMeta
from common.config.strict import to_plain
from common.errors import UserError
from common.experiment import compose
from common.models.exported_graph import GraphMetadata, read_properties
from common.models.stored_network import check_fits, read_network

EXPERIMENT = compose("shapes/12/suponly")


def described(**changes) -> CheckpointMeta:
    """The description of a checkpoint of the experiment with changes; None removes an entry."""
    return dataclasses.replace(CheckpointMeta.from_experiment(EXPERIMENT, role="teacher"), **changes)


def saved(path: Path, **changes) -> Path:
    tensors = {"encoder.conv1.weight": np.ones((2, 3), np.float32)}
    write(path, Checkpoint(meta=described(**changes), networks={"model": tensors}))
    return path


def test_a_described_network_needs_no_experiment(tmp_path):
    stored = read_network(saved(tmp_path / "a.ckpt", mean=(1.0, 2.0, 3.0)))
    assert stored.config == EXPERIMENT.network and stored.classes == EXPERIMENT.dataset.classes
    assert (stored.role, stored.experiment) == ("teacher", "shapes/12/suponly")
    assert stored.mean == (1.0, 2.0, 3.0) and stored.std == EXPERIMENT.augment.std
    assert list(stored.tensors) == ["encoder.conv1.weight"]


def test_a_fitting_experiment_changes_nothing(tmp_path):
    path = saved(tmp_path / "a.ckpt")
    assert vars(read_network(path, experiment=EXPERIMENT)).keys() == vars(read_network(path)).keys()
    assert read_network(path, experiment=EXPERIMENT).config == read_network(path).config


def test_what_the_network_does_not_read_is_not_compared(tmp_path):
    """The tiny encoder has one stem whatever its configuration of former times says."""
    network = to_plain(EXPERIMENT.network) | {"stem": "deep", "prototype_temperature": 3.0}
    path = saved(tmp_path / "a.ckpt", network=network)
    assert read_network(path, experiment=EXPERIMENT).config.stem == "deep"
    with pytest.raises(UserError, match="network.width=33"):
        read_network(saved(tmp_path / "b.ckpt", network=network | {"width": 33}), experiment=EXPERIMENT)


def test_the_experiment_tells_what_the_file_does_not(tmp_path):
    path = saved(tmp_path / "a.ckpt", network=None, classes=None, mean=None, std=None, experiment=None)
    with pytest.raises(UserError, match="a.ckpt does not say which network"):
        read_network(path)
    stored = read_network(path, experiment=EXPERIMENT)
    assert stored.config == EXPERIMENT.network and stored.mean == EXPERIMENT.augment.mean
    assert stored.experiment == EXPERIMENT.name


def test_the_named_experiment_tells_the_normalisation(tmp_path):
    assert read_network(saved(tmp_path / "a.ckpt", mean=None, std=None)).mean == EXPERIMENT.augment.mean
    with pytest.raises(UserError, match="how its images are normalised"):
        read_network(saved(tmp_path / "b.ckpt", mean=None, std=None, experiment=None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("a", "b")}, "file has 2 classes but data set shapes has 6"),
        ({"classes": ("background", "ring", "square", "triangle", "disc", "cross")}, "class 1 'ring' but .* 'disc'"),
        ({"network": to_plain(EXPERIMENT.network) | {"width": 8}}, r"network.width=8 \(here 32\)"),
        ({"network": to_plain(EXPERIMENT.network) | {"aspp_dilations": [1]}}, r"aspp_dilations=\[1\] \(here \[2,4\]\)"),
        ({"std": (1.0, 1.0, 1.0)}, r"augment.std=\[1.0,1.0,1.0\]"),
    ],
)
def test_contradictions_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        check_fits(described(**changes), EXPERIMENT, Path("file"))


def test_what_only_training_uses_may_differ():
    network = to_plain(EXPERIMENT.network) | {"aspp_dropout": 0.5, "backbone_weights": "x", "zero_init_residual": True}
    check_fits(described(network=network), EXPERIMENT, Path("file"))
    check_fits(CheckpointMeta(), EXPERIMENT, Path("file"))


def metadata() -> GraphMetadata:
    return GraphMetadata(
        output="logits", classes=("a", "b\n, \"c\""), mean=(1.0, 2.0, 3.0), std=(4.5, 5.0, 6.0), experiment="",
        role="teacher", checkpoint_sha256="0" * 64, network=to_plain(EXPERIMENT.network),
    )  # fmt: skip


def test_graph_metadata_comes_back_as_it_was():
    properties = metadata().properties()
    assert all(isinstance(value, str) for value in properties.values())
    assert read_properties(properties, Path("m.onnx")) == metadata()


def test_missing_properties_are_named():
    with pytest.raises(UserError, match="m.onnx: not a model of this project"):
        read_properties({"classes": "[]"}, Path("m.onnx"))
    with pytest.raises(UserError, match="m.onnx: std is missing"):
        read_properties({key: value for key, value in metadata().properties().items() if key != "std"}, Path("m.onnx"))


def test_properties_of_other_tools_do_no_harm():
    added = {"onnx.infer": "onnxruntime.quant"}
    assert read_properties(metadata().properties() | added, Path("m.onnx")) == metadata()
