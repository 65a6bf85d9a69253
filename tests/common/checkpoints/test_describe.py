"""What names and shapes tell of a file of another program, and its branches as networks of their own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from common.checkpoints.branches import branch, has_branches
from common.checkpoints.checkpoint import Checkpoint
from common.checkpoints.describe import class_names, describe
from common.checkpoints.layouts import DIALECTS
from common.checkpoints.meta import CheckpointMeta
from common.config.strict import to_plain
from common.errors import UserError
from common.experiment import compose


def tensors(blocks=(3, 4, 6, 3), classes=21, **rows) -> dict[str, np.ndarray]:
    """One small array for every block, and heads with as many rows as told."""
    encoder = {f"encoder.layer{s}.{b}.conv1.weight": np.full(1, s) for s, n in enumerate(blocks, 1) for b in range(n)}
    heads = {"classifier": classes, **rows}
    return encoder | {f"{head}.project.weight": np.zeros((count, 1)) for head, count in heads.items()}


@pytest.mark.parametrize(
    ("dialect", "experiment", "arrays"),
    [
        ("u2pl", "voc/366/u2pl", tensors((3, 4, 23, 3), representation=256)),
        ("u2pl", "cityscapes/744/suponly", tensors((3, 4, 23, 3), 19, auxiliary=19)),
    ],
)
def test_the_description_is_the_published_experiment_s(dialect, experiment, arrays):
    config = compose(experiment)
    description = describe(DIALECTS[dialect], arrays)
    assert description.network == to_plain(dataclasses.replace(config.network, backbone_weights=None))
    assert description.classes == config.dataset.classes
    assert description.mean == config.augment.mean and description.std == config.augment.std


def test_depth_and_classes():
    assert describe(DIALECTS["uccl"], tensors()).network["encoder"] == "resnet50"
    assert describe(DIALECTS["uccl"], tensors((3, 4, 23, 3))).network["encoder"] == "resnet101"
    assert class_names(19)[0] == "road" and list(class_names(3)) == ["class 0", "class 1", "class 2"]


def test_what_the_tensors_do_not_tell():
    assert describe(DIALECTS["torchvision"], tensors()) == CheckpointMeta()
    assert describe(DIALECTS["uccl"], tensors((9, 9, 9, 9))) == CheckpointMeta()
    assert describe(DIALECTS["uccl"], {"encoder.conv1.weight": np.zeros(1)}) == CheckpointMeta()


def two_branches() -> dict[str, np.ndarray]:
    names = [
        "encoder.conv1.weight", "encoder.layer1.w", "encoder.layer2.w", "encoder.layer2_subclass.w", "decoder.w",
        "decoder_subclass.w", "classifier.project.weight", "classifier_subclass.project.weight",
    ]  # fmt: skip
    return {name: np.full((2 + index, 1), index) for index, name in enumerate(names)}


def test_branches():
    meta = CheckpointMeta(network={"subclasses": 9}, classes=("a",) * 8, role="student")
    both = Checkpoint(meta=meta, networks={"model": two_branches()})
    assert has_branches(two_branches()) and both.only().networks["model"].keys() == two_branches().keys()
    one = both.only("class")
    assert {name: int(array[0, 0]) for name, array in one.networks["model"].items()} == {
        "encoder.conv1.weight": 0, "encoder.layer1.w": 1, "encoder.layer2.w": 2, "decoder.w": 4,
        "classifier.project.weight": 6,
    }  # fmt: skip
    assert one.meta == CheckpointMeta(network={"subclasses": 0}, classes=("a",) * 8, role="class")
    other = both.only("subclass")
    assert {name: int(array[0, 0]) for name, array in other.networks["model"].items()} == {
        "encoder.conv1.weight": 0, "encoder.layer1.w": 1, "encoder.layer2.w": 3, "decoder.w": 5,
        "classifier.project.weight": 7,
    }  # fmt: skip
    assert other.meta.classes[:2] == ("subclass 0", "subclass 1") and len(other.meta.classes) == 9
    assert one.only("class") is one and not has_branches(one.networks["model"])
    with pytest.raises(UserError, match="no network of the role 'subclass': its network has no subclass branch"):
        one.only("subclass")
    assert branch(two_branches(), CheckpointMeta(), "class")[1] == CheckpointMeta(role="class")
