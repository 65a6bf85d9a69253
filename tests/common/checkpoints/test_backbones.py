"""ImageNet weights of every naming start an encoder, and a file of another architecture is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from common.checkpoints.backbone import load_backbone
from common.checkpoints.ckpt_file import write_ckpt
from common.checkpoints.dialects import mindspore_norms
from common.config.schema import NetworkConfig
from common.errors import UserError
from common.networks.plan import RESNETS
from tests.places import SHARED

RNG = np.random.default_rng(0)


def norm(name: str, counter: bool = True) -> dict[str, np.ndarray]:
    leaves = {f"{name}.{leaf}": RNG.random(2, np.float32) for leaf in ("weight", "bias", "running_mean", "running_var")}
    return leaves | ({f"{name}.num_batches_tracked": np.array(7)} if counter else {})


def resnet(encoder: str, stem: str, fc: bool = True, counters: bool = True) -> dict[str, np.ndarray]:
    """A file with torchvision's names, or those of the deep stem, and two values per tensor."""
    spec, tensors = RESNETS[encoder], {}
    convolutions = ["conv1"] if stem == "conv7" else ["conv1.0", "conv1.3", "conv1.6"]
    norms = ["bn1"] if stem == "conv7" else ["conv1.1", "conv1.4", "bn1"]
    for stage, blocks in enumerate(spec.blocks, 1):
        for block in range(blocks):
            for index in range(1, 4 if spec.bottleneck else 3):
                convolutions.append(f"layer{stage}.{block}.conv{index}")
                norms.append(f"layer{stage}.{block}.bn{index}")
            if block == 0 and (stage > 1 or spec.bottleneck):
                convolutions.append(f"layer{stage}.0.downsample.0")
                norms.append(f"layer{stage}.0.downsample.1")
    for name in convolutions:
        tensors[f"{name}.weight"] = RNG.random((2, 1, 1, 1), np.float32)
    for name in norms:
        tensors |= norm(name, counters)
    return tensors | ({"fc.weight": np.ones((3, 2), np.float32), "fc.bias": np.ones(3, np.float32)} if fc else {})


def empty_encoder(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The encoder that the file fits, with values of its own, and a head that no backbone file has."""
    kept = {f"encoder.{name}": np.full_like(array, -1) for name, array in tensors.items() if not name.startswith("fc")}
    return kept | {"classifier.project.weight": np.full((2, 2), -1, np.float32)}


def loaded(path: Path, encoder: dict, network: str, stem: str) -> str:
    return load_backbone(encoder, NetworkConfig(encoder=network, stem=stem, backbone_weights=str(path)))


def check(encoder: dict[str, np.ndarray], tensors: dict[str, np.ndarray]) -> None:
    for name, array in encoder.items():
        if name.startswith("encoder.") and not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(array, tensors[name.removeprefix("encoder.")])
    assert (encoder["classifier.project.weight"] == -1).all()


@pytest.mark.parametrize(
    ("network", "stem"), [("resnet18", "conv7"), ("resnet50", "conv7"), ("resnet50", "deep"), ("resnet101", "deep")]
)
@pytest.mark.parametrize("fc", [True, False], ids=["with fc", "without fc"])
def test_torchvision_timm_and_deep_stem_names_in_safetensors(network, stem, fc, tmp_path):
    tensors = resnet(network, stem, fc)
    save_file(tensors, tmp_path / "weights.safetensors")
    encoder = empty_encoder(tensors)
    report = loaded(tmp_path / "weights.safetensors", encoder, network, stem)
    check(encoder, tensors)
    wanted = sum(name.startswith("encoder.") and not name.endswith("tracked") for name in encoder)
    assert report == f"backbone weights.safetensors: {wanted} tensors loaded, 0 of the file unused, 1 start fresh"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"state_dict": tensors, "epoch": 90},
        lambda tensors: {"model": tensors},
        lambda tensors: {f"module.{name}": array for name, array in tensors.items()},
    ],
    ids=["flat", "state_dict", "model", "module."],
)
def test_pth_files_however_they_are_wrapped(wrap, tmp_path):
    torch = pytest.importorskip("torch")

    def tensors_of(value):
        if isinstance(value, dict):
            return {key: tensors_of(item) for key, item in value.items()}
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    tensors = resnet("resnet50", "deep")
    torch.save(tensors_of(wrap(tensors)), tmp_path / "resnet50_v1c.pth")
    encoder = empty_encoder(tensors)
    loaded(tmp_path / "resnet50_v1c.pth", encoder, "resnet50", "deep")
    check(encoder, tensors)


def test_mindspore_names_and_files_without_counters(tmp_path):
    tensors = resnet("resnet101", "deep", fc=False, counters=False)
    write_ckpt(tmp_path / "resnet101.ckpt", mindspore_norms(tensors))
    encoder = empty_encoder(tensors)
    loaded(tmp_path / "resnet101.ckpt", encoder, "resnet101", "deep")
    check(encoder, tensors)


@pytest.mark.parametrize(
    ("file", "network", "complaint"),
    [
        (("resnet50", "conv7"), ("resnet50", "deep"), "lacks encoder.conv1.0.weight"),
        (("resnet50", "deep"), ("resnet50", "conv7"), "lacks encoder.conv1.weight"),
        (("resnet50", "deep"), ("resnet101", "deep"), "lacks encoder.layer3.10"),
    ],
)
def test_another_architecture_is_refused_and_nothing_is_loaded(file, network, complaint, tmp_path):
    save_file(resnet(*file), tmp_path / "weights.safetensors")
    encoder = empty_encoder(resnet(*network))
    with pytest.raises(UserError, match=f"do not fit {network[0]} with stem {network[1]}: the file {complaint}"):
        loaded(tmp_path / "weights.safetensors", encoder, *network)
    assert all((array == -1).all() for array in encoder.values())


def test_a_bottleneck_with_an_averaging_shortcut_is_another_architecture(tmp_path):
    """timm's resnet50d has the deep stem too, but its shortcut's convolution is ``downsample.1``."""
    tensors = {n.replace("downsample.1", "downsample.2").replace("downsample.0", "downsample.1"): a
               for n, a in resnet("resnet50", "deep").items()}  # fmt: skip
    save_file(tensors, tmp_path / "resnet50d.safetensors")
    with pytest.raises(
        UserError, match="do not fit resnet50 with stem deep: the file lacks encoder.layer1.0.downsample.0"
    ):
        loaded(tmp_path / "resnet50d.safetensors", empty_encoder(resnet("resnet50", "deep")), "resnet50", "deep")


@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="no real weights beside the checkout (SHARED)")
def test_real_weights(monkeypatch):
    monkeypatch.setenv("WEIGHTS_ROOT", str(SHARED / "weights"))
    from safetensors.numpy import load_file

    name = "resnet18_imagenet_trunk.safetensors"
    tensors = load_file(SHARED / "weights" / name)
    trunk = {key: array for key, array in tensors.items() if not key.startswith("layer4")}
    encoder = empty_encoder(trunk)
    report = load_backbone(encoder, NetworkConfig(encoder="resnet18", stages=3, backbone_weights=name))
    check(encoder, trunk)
    assert "(layer4)" in report
