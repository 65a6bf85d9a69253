"""Every name of the authors' checkpoints has one neutral name and comes back from it."""

import json

import numpy as np
import pytest

from common.checkpoints.dialects import mindspore_norms, torch_norms
from common.checkpoints.layouts import DIALECTS
from common.errors import UserError
from tests.places import SHARED

GOLDEN = SHARED / "golden"

MANIFESTS = {
    "u2pl": [f"u2pl/manifest_{kind}.json" for kind in (
        "voc_semi_r50", "voc_semi_r101", "voc_suponly_r101", "cityscapes_semi_r50", "cityscapes_semi_r101",
        "cityscapes_suponly_r101",
    )],
    "cpcl": [f"cpcl/network/manifest_{kind}.json" for kind in ("voc_r50", "voc_r101", "city_r50", "city_r101")],
    "pcr": ["pcr/manifest_voc_torch.json", "pcr/manifest_city_torch.json"],
    "pcr-mindspore": ["pcr/manifest_voc_mindspore.json", "pcr/manifest_city_mindspore.json"],
    "usrn": [f"usrn/manifest_{kind}.json" for kind in (
        "baseline_r50_331", "baseline_r50_372", "baseline_r101_331", "usrn_r50_331", "usrn_r50_372", "usrn_r101_331",
    )],
    "uccl": ["uccl/manifest_resnet50.json", "uccl/manifest_resnet101.json"],
}  # fmt: skip
CASES = [(dialect, manifest) for dialect, manifests in MANIFESTS.items() for manifest in manifests]

EXAMPLES = [
    ("u2pl", "decoder.aspp.conv1.1.weight", "decoder.aspp.pool.conv.weight"),
    ("u2pl", "decoder.aspp.conv2.1.bias", "decoder.aspp.branches.0.bn.bias"),
    ("u2pl", "decoder.aspp.conv5.0.weight", "decoder.aspp.branches.3.conv.weight"),
    ("u2pl", "decoder.head.0.weight", "decoder.aspp.merge.conv.weight"),
    ("u2pl", "decoder.classifier.8.bias", "classifier.project.bias"),
    ("u2pl", "decoder.representation.5.running_var", "representation.bn2.running_var"),
    ("u2pl", "auxor.aux.4.weight", "auxiliary.project.weight"),
    ("pcr", "proto_net.proto_list", "prototypes"),
    ("cpcl", "head.aspp.map_convs.2.weight", "decoder.aspp.branches.2.weight"),
    ("cpcl", "head.aspp.red_conv.weight", "decoder.aspp.branches_merge.weight"),
    ("cpcl", "head.aspp.pool_red_conv.weight", "decoder.aspp.pool_merge.weight"),
    ("cpcl", "head.last_conv.4.weight", "classifier.bn2.weight"),
    ("cpcl", "classifier.weight", "classifier.project.weight"),
    ("usrn", "encoder.backbone.layer3_aux.5.conv2.weight", "encoder.layer3_subclass.5.conv2.weight"),
    ("usrn", "encoder.aspp_SubCls.aspp2.atrous_conv.weight", "decoder_subclass.aspp.branches.1.conv.weight"),
    ("usrn", "encoder.decoder.conv1.weight", "decoder.low.conv.weight"),
    ("usrn", "encoder.decoder_SubCls.last_conv.5.bias", "classifier_subclass.bn2.bias"),
    ("usrn", "classifier_SubCls.1.bias", "classifier_subclass.project.bias"),
    ("uccl", "head.b4.gap.1.weight", "decoder.aspp.pool.conv.weight"),
    ("uccl", "head.project.1.bias", "decoder.aspp.merge.bn.bias"),
    ("uccl", "fuse.3.weight", "classifier.conv2.weight"),
    ("uccl", "reduce.0.weight", "decoder.low.conv.weight"),
    ("torchvision", "layer4.0.downsample.1.bias", "encoder.layer4.0.downsample.1.bias"),
    ("torchvision", "conv1.weight", "encoder.conv1.weight"),
]


def manifest_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of one golden manifest, whatever its form."""
    path = GOLDEN / name
    if not path.exists():
        pytest.skip(f"optional golden manifests beside the checkout are absent: {path}")
    content = json.loads(path.read_text())
    shapes = next(
        content[key] for key in ("state_dict", "shapes", "parameters") if isinstance(content.get(key), dict | list)
    )
    return {entry: tuple(shape) for entry, shape in (shapes.items() if isinstance(shapes, dict) else shapes)}


def file_of(dialect: str, shapes: dict[str, tuple[int, ...]]) -> dict:
    """A checkpoint of the layout with one-element arrays that are told apart by their value."""
    tensors = {name: np.array([index], np.float32) for index, name in enumerate(shapes)}
    layout = DIALECTS[dialect]
    tensors = {layout.module_prefix + name: array for name, array in tensors.items()}
    return {layout.slots[0].key: tensors} if layout.slots[0].key else tensors


@pytest.mark.parametrize(("dialect", "manifest"), CASES)
def test_every_name_of_a_manifest_goes_there_and_back(dialect, manifest):
    payload = file_of(dialect, manifest_shapes(manifest))
    layout = DIALECTS[dialect]
    networks, homeless, left = layout.networks(payload)
    assert networks and not homeless
    for tensors in networks.values():
        neutral = layout.to_neutral(tensors, "file")
        zeros = [f"{module}.bias" for module in layout.zero_bias if f"{module}.bias" in neutral]
        assert len(neutral) == len(tensors) + len(zeros)
        back = layout.from_neutral(neutral, "file")
        assert back == tensors
        assert list(back) == list(tensors)


@pytest.mark.parametrize(("dialect", "manifest"), CASES)
def test_a_manifest_is_recognised_and_by_its_own_table_alone(dialect, manifest):
    payload = file_of(dialect, manifest_shapes(manifest))
    fitting = [name for name, layout in DIALECTS.items() if layout.fits(payload)]
    # U2PL's names are all PCR's, but PCR's signature is missing.
    assert fitting == [dialect]


@pytest.mark.parametrize(("dialect", "foreign", "neutral"), EXAMPLES)
def test_examples_of_names(dialect, foreign, neutral):
    assert DIALECTS[dialect].neutral_name(foreign) == neutral
    assert DIALECTS[dialect].foreign_name(neutral) == foreign


@pytest.mark.parametrize("dialect", DIALECTS)
def test_tables_are_one_to_one(dialect):
    rules = DIALECTS[dialect].rules
    assert len({neutral for neutral, _ in rules}) == len({foreign for _, foreign in rules}) == len(rules)
    for neutral, foreign in rules:
        assert DIALECTS[dialect].neutral_name(f"{foreign}.weight") == f"{neutral}.weight"
        assert DIALECTS[dialect].foreign_name(f"{neutral}.weight") == f"{foreign}.weight"


@pytest.mark.parametrize(
    "name", ["decoder.aspp.conv6.0.weight", "decoder.classifier.2.weight", "encoders.conv1.weight"]
)
def test_a_name_outside_the_table_has_no_counterpart(name):
    assert DIALECTS["u2pl"].neutral_name(name) is None
    with pytest.raises(UserError, match=f"^f.pth: names that the layout u2pl does not have \\(1\\): {name}$"):
        DIALECTS["u2pl"].to_neutral({name: np.zeros(1)}, "f.pth")


def test_prefixes_end_at_dots():
    assert DIALECTS["usrn"].neutral_name("encoder.backbone.layer2.0.conv1.weight") == "encoder.layer2.0.conv1.weight"
    assert DIALECTS["usrn"].neutral_name("encoder.backbone.layer2_subclass.0.conv1.weight") is None


def test_what_a_layout_cannot_hold_is_listed():
    with pytest.raises(UserError, match="the layout torchvision has no place for .1.: classifier.project.bias"):
        DIALECTS["torchvision"].from_neutral({"classifier.project.bias": np.zeros(1)}, "out.pth")


def test_norms_are_recognised_by_the_mean_beside_them():
    tensors = {
        f"{module}.{leaf}": np.full(1, index)
        for index, (module, leaf) in enumerate(
            [("bn", "weight"), ("bn", "bias"), ("bn", "running_mean"), ("bn", "running_var"), ("conv", "weight")]
        )
    }
    mindspore = mindspore_norms(tensors)
    assert list(mindspore) == ["bn.gamma", "bn.beta", "bn.moving_mean", "bn.moving_variance", "conv.weight"]
    assert torch_norms(mindspore) == tensors
    assert torch_norms({"layernorm.gamma": 1}) == {"layernorm.gamma": 1}


def test_pcr_mindspore_has_no_auxiliary_bias_and_no_counters():
    layout = DIALECTS["pcr-mindspore"]
    neutral = layout.to_neutral({"auxor.aux.0.weight": np.ones((4, 2, 3, 3), np.float32)}, "f.ckpt")
    np.testing.assert_array_equal(neutral["auxiliary.conv.bias"], np.zeros(4, np.float32))
    counted = neutral | {"encoder.bn1.num_batches_tracked": np.array(3)}
    assert list(layout.from_neutral(counted, "f.ckpt")) == ["auxor.aux.0.weight"]
    with pytest.raises(UserError, match="auxiliary.conv.bias, which is not zero"):
        layout.from_neutral({**neutral, "auxiliary.conv.bias": np.ones(4, np.float32)}, "f.ckpt")
