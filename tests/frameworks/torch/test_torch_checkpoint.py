"""PyTorch networks to and from neutral arrays, and .pth files."""

import dataclasses
import errno
import io
import json

import numpy as np
import pytest

from common.checkpoints.checkpoint import Checkpoint, read
from common.checkpoints.layouts import DIALECTS
from common.checkpoints.meta import CheckpointMeta
from common.command_line import run_command
from common.config.schema import NetworkConfig
from common.errors import UserError
from common.networks.tensors import is_counter
from tests.places import SHARED

torch = pytest.importorskip("torch")

from torch_impl.checkpoint import load_network, network_tensors, save_checkpoint  # noqa: E402
from torch_impl.networks import build_network  # noqa: E402

GOLDEN = SHARED / "golden"
TINY = NetworkConfig(encoder="tiny", width=8, low_level_channels=4, representation=6)

DEEP = {"stem": "deep", "output_stride": 8, "aspp_merge_kernel": 3, "low_level_channels": 256, "low_level_bias": True}
U2PL = {**DEEP, "head_bias": True, "representation": 256}
FAMILIES = [
    ("u2pl", "u2pl/manifest_voc_semi_r50", {"encoder": "resnet50", **U2PL}),
    ("u2pl", "u2pl/manifest_cityscapes_semi_r101", {"encoder": "resnet101", **U2PL, "auxiliary": True}),
    ("u2pl", "u2pl/manifest_voc_suponly_r101", {"encoder": "resnet101", **U2PL, "representation": 0}),
    ("pcr", "pcr/manifest_city_torch", {"encoder": "resnet101", **U2PL, "representation": 0, "auxiliary": True}),
    ("pcr-mindspore", "pcr/manifest_city_mindspore", {"encoder": "resnet101", **U2PL, "representation": 0, "auxiliary": True}),
    ("cpcl", "cpcl/network/manifest_voc_r50", {"encoder": "resnet50", "stem": "deep", "aspp": "sum"}),
    ("usrn", "usrn/manifest_baseline_r50_331", {"encoder": "resnet50"}),
    ("usrn", "usrn/manifest_usrn_r50_331", {"encoder": "resnet50", "subclasses": 177}),
    ("uccl", "uccl/manifest_resnet101", {"encoder": "resnet101", "stem": "deep"}),
]  # fmt: skip


def network(seed: int = 0, classes: int = 3, config: NetworkConfig = TINY):
    torch.manual_seed(seed)
    return build_network(config, classes)


def assert_equal(tensors, wanted):
    assert set(tensors) == set(wanted)
    for name, array in wanted.items():
        assert tensors[name].dtype == array.dtype and tensors[name].shape == array.shape, name
        np.testing.assert_array_equal(tensors[name], array)


@pytest.mark.parametrize(("dialect", "manifest", "options"), FAMILIES)
def test_the_authors_names_and_shapes_are_those_of_our_networks(dialect, manifest, options):
    path = GOLDEN / f"{manifest}.json"
    if not path.exists():
        pytest.skip(f"optional golden manifests beside the checkout are absent: {path}")
    content = json.loads(path.read_text())
    shapes = dict(
        next(content[key] for key in ("state_dict", "shapes", "parameters") if not isinstance(content.get(key, 0), int))
    )
    prefix = DIALECTS[dialect].slots[0].prefix
    foreign = {n.removeprefix(prefix): np.empty(s, np.bool_) for n, s in shapes.items() if n.startswith(prefix)}
    neutral = DIALECTS[dialect].to_neutral(foreign, manifest)
    classes = neutral["classifier.project.bias"].shape[0]
    with torch.device("meta"):
        ours = build_network(NetworkConfig(**options), classes).state_dict()
    neutral.pop("prototypes", None)
    kept = {name for name in ours if dialect != "pcr-mindspore" or not is_counter(name)}
    assert {name: array.shape for name, array in neutral.items()} == {name: tuple(ours[name].shape) for name in kept}


def test_a_network_takes_what_another_gives():
    source, target = network(0), network(1)
    source.encoder.bn1.num_batches_tracked += 5
    load_network(target, network_tensors(source), "file")
    assert_equal(network_tensors(target), network_tensors(source))


def test_tensors_are_copies():
    net = network()
    before = network_tensors(net)
    with torch.no_grad():
        net.classifier.project.bias += 1
    assert (before["classifier.project.bias"] != network_tensors(net)["classifier.project.bias"]).all()


def test_absent_counters_become_zero():
    net = network()
    net.encoder.bn1.num_batches_tracked += 5
    tensors = {name: array for name, array in network_tensors(net).items() if not is_counter(name)}
    load_network(net, tensors, "file")
    assert net.encoder.bn1.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        ({"classes": 4}, r"classifier.project.weight \[4, 8, 1, 1\] in the file, \[3, 8, 1, 1\] in the network"),
        ({"config": NetworkConfig(encoder="resnet18", width=8, low_level_channels=4)}, r"\d+ missing: .*; \d+ surplus: encoder.layer"),
    ],
)  # fmt: skip
def test_another_architecture_or_class_count_loads_nothing(other, complaint):
    target, stranger = network(0), network(1, **other)
    before = network_tensors(target)
    with pytest.raises(UserError, match=f"best.pth does not fit this network, nothing was loaded: .*{complaint}"):
        load_network(target, network_tensors(stranger), "best.pth")
    assert_equal(network_tensors(target), before)


def training() -> Checkpoint:
    networks = {"student": network_tensors(network(0)), "teacher": network_tensors(network(1))}
    state = {"momentum/a": np.arange(3, dtype=np.float32), "count": np.array(3), "empty": np.zeros((0, 2), np.float32)}
    return Checkpoint(meta=CheckpointMeta(role="teacher", classes=("a", "b")), networks=networks, state=state)


def test_files_hold_plain_values_only(tmp_path):
    save_checkpoint(tmp_path / "last.pth", training())
    loaded = torch.load(tmp_path / "last.pth", weights_only=True)
    assert list(loaded) == ["format_version", "meta", "networks", "state"]
    save_checkpoint(tmp_path / "best.pth", training().only())
    loaded = torch.load(tmp_path / "best.pth", weights_only=True)
    assert list(loaded) == ["format_version", "meta", "model"]
    net = network(5)
    net.load_state_dict(loaded["model"], strict=True)
    assert_equal(network_tensors(net), training().networks["teacher"])


@pytest.mark.parametrize("name", ["last.pth", "last.pt", "last.ckpt"])
def test_a_training_state_survives(tmp_path, name):
    save_checkpoint(tmp_path / name, training())
    checkpoint = read(tmp_path / name)
    assert checkpoint.meta == training().meta
    assert_equal(checkpoint.state, training().state)
    for role, tensors in training().networks.items():
        assert_equal(checkpoint.networks[role], tensors)


def test_numpy_numbers_of_the_description_become_plain(tmp_path):
    checkpoint = training().only()
    meta = dataclasses.replace(checkpoint.meta, miou=np.float64(0.5))
    save_checkpoint(tmp_path / "best.pth", dataclasses.replace(checkpoint, meta=meta))
    assert type(torch.load(tmp_path / "best.pth", weights_only=True)["meta"]["miou"]) is float


@pytest.mark.parametrize("content", [{0: torch.ones(1)}, [torch.ones(1)], torch.ones(1), {"a": 1}, {}])
def test_other_content_is_not_a_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match="not a checkpoint|no known layout"):
        read(tmp_path / "a.pth")


def test_equal_content_gives_equal_bytes(tmp_path):
    for name in ("a.pth", "b.pth"):
        save_checkpoint(tmp_path / name, training())
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


class FullDisk(io.FileIO):
    """A file on a disk that is full after a few bytes."""

    def write(self, data):
        if self.tell() + len(data) > 2000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, capsys):
    path = tmp_path / "last.pth"
    save_checkpoint(path, training())
    before = path.read_bytes()
    changed = training()
    changed.state["count"] += 1
    monkeypatch.setattr("torch_impl.checkpoint.open", FullDisk, raising=False)
    code = run_command(lambda _: save_checkpoint(path, changed))
    assert code == 2
    assert capsys.readouterr().err.startswith("error: no space left")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pth"]
