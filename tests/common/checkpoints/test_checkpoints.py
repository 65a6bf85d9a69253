"""Reading and writing checkpoints in neutral names: own files, recognition, bad input; no framework is imported."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.checkpoints import checkpoint as checkpoints
from common.checkpoints.checkpoint import Checkpoint, content_for, read, write
from common.checkpoints.ckpt_file import write_ckpt
from common.checkpoints.formats import file_format
from common.checkpoints.meta import FORMAT_VERSION, CheckpointMeta
from common.command_line import run_command
from common.config.schema import NetworkConfig
from common.config.strict import to_plain
from common.errors import UserError
from tests.places import PROJECT


def tensors(seed: int = 0, classes: int = 3) -> dict[str, np.ndarray]:
    """A small network's arrays with a BatchNorm, a counter and a bias."""
    rng = np.random.default_rng(seed)
    return {
        "encoder.conv1.weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "encoder.bn1.weight": rng.random(4, np.float32),
        "encoder.bn1.bias": rng.random(4, np.float32),
        "encoder.bn1.running_mean": rng.random(4, np.float32),
        "encoder.bn1.running_var": rng.random(4, np.float32),
        "encoder.bn1.num_batches_tracked": np.array(seed + 7),
        "classifier.project.weight": rng.standard_normal((classes, 4, 1, 1)).astype(np.float32),
        "classifier.project.bias": rng.random(classes, np.float32),
    }


def deployable() -> Checkpoint:
    """One network as a best checkpoint holds it."""
    network = to_plain(NetworkConfig(encoder="tiny"))
    meta = CheckpointMeta(
        experiment="shapes/12/u2pl", network=network, classes=("a", "b", "ü"), role="teacher", miou=0.5
    )
    return Checkpoint(meta=meta, networks={"model": tensors()})


def training() -> Checkpoint:
    """A run's state with two networks."""
    state = {
        "momentum/encoder.bn1.weight": np.arange(4, dtype=np.float32),
        "bank/empty": np.zeros((0, 4), np.float32),
        "iteration": np.array(12),
        "used": np.array([True, False]),
    }
    networks = {"student": tensors(1), "teacher": tensors(2)}
    return Checkpoint(meta=CheckpointMeta(role="teacher", iteration=12), networks=networks, state=state)


def assert_same(loaded: Checkpoint, wanted: Checkpoint) -> None:
    assert loaded.meta == wanted.meta
    for mine, other in [(loaded.state, wanted.state), *((loaded.networks[r], n) for r, n in wanted.networks.items())]:
        assert set(mine) == set(other)
        for name, array in other.items():
            assert mine[name].dtype == array.dtype and mine[name].shape == array.shape, name
            np.testing.assert_array_equal(mine[name], array)
    assert set(loaded.networks) == set(wanted.networks)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("dialect", [None, "torch", "mindspore"])
def test_a_network_survives(tmp_path, suffix, dialect):
    path = tmp_path / f"best{suffix}"
    write(path, deployable(), dialect)
    assert_same(read(path), deployable())
    assert_same(read(path, role="teacher"), deployable())
    mindspore_names = dialect == "mindspore" or (dialect is None and suffix == ".ckpt")
    assert (b"encoder.bn1.gamma" in path.read_bytes()) is mindspore_names


def test_a_training_state_survives_in_ckpt(tmp_path):
    write(tmp_path / "last.ckpt", training())
    assert_same(read(tmp_path / "last.ckpt"), training())
    student = read(tmp_path / "last.ckpt", role="student")
    assert student.deployable and student.meta.role == "student"
    np.testing.assert_array_equal(student.networks["model"]["encoder.bn1.bias"], tensors(1)["encoder.bn1.bias"])
    with pytest.raises(UserError, match="no network of the role 'branch1'; it has student, teacher"):
        read(tmp_path / "last.ckpt", role="branch1")


def test_a_training_state_does_not_fit_in_safetensors(tmp_path):
    with pytest.raises(UserError, match="holds one network; choose one of student, teacher"):
        write(tmp_path / "last.safetensors", training())
    assert not list(tmp_path.iterdir())


def test_the_role_to_deploy():
    assert training().deployed_role() == "teacher"
    assert (
        Checkpoint(meta=CheckpointMeta(role="student"), networks={"teacher": {}, "student": {}}).deployed_role()
        == "student"
    )
    assert Checkpoint(meta=CheckpointMeta(), networks={"branch2": {}, "branch1": {}}).deployed_role() == "branch1"
    assert Checkpoint(meta=CheckpointMeta(), networks={"other": {}}).deployed_role() == "other"


def test_a_checkpoint_knows_its_network():
    config, classes = deployable().built_from("best.pth")
    assert config == NetworkConfig(encoder="tiny") and classes == ("a", "b", "ü")
    with pytest.raises(UserError, match="last.pth does not say which network"):
        training().built_from("last.pth")
    broken = deployable()
    broken.meta.network["encoder"] = "resnet19"
    with pytest.raises(UserError, match="best.pth: encoder = 'resnet19'"):
        broken.built_from("best.pth")


def test_safetensors_of_another_origin_is_recognised(tmp_path):
    from safetensors.numpy import save_file

    resnet = {
        "conv1.weight": np.ones((4, 3, 7, 7), np.float32),
        "layer1.0.conv1.weight": np.ones((4, 4, 3, 3), np.float32),
        "fc.bias": np.ones(2, np.float32),
    }
    save_file(resnet, tmp_path / "resnet.safetensors")
    checkpoint = read(tmp_path / "resnet.safetensors")
    assert list(checkpoint.networks["model"]) == ["encoder.conv1.weight", "encoder.layer1.0.conv1.weight"]
    assert checkpoint.meta.origin.dialect == "torchvision"
    save_file(tensors(), tmp_path / "bare.safetensors")
    assert read(tmp_path / "bare.safetensors").meta.origin.dialect == "torch"
    save_file({"something.weight": np.ones(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match="names are of no known layout .*something.weight"):
        read(tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match="names that the layout uccl does not have .1.: something.weight"):
        read(tmp_path / "odd.safetensors", dialect="uccl")


def test_bfloat16_of_safetensors_is_widened(tmp_path):
    head = json.dumps({"classifier.project.bias": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    raw = (np.array([1.5, -2], np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    (tmp_path / "a.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + raw)
    widened = read(tmp_path / "a.safetensors").networks["model"]["classifier.project.bias"]
    np.testing.assert_array_equal(widened, np.array([1.5, -2], np.float32))


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_equal_content_gives_equal_bytes(tmp_path, suffix):
    for name in "ab":
        write(tmp_path / f"{name}{suffix}", deployable())
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at .*missing.ckpt"):
        read(tmp_path / "missing.ckpt")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(UserError, match="no checkpoint at .*folder.pth"):
        read(tmp_path / "folder.pth")
    write(tmp_path / "new" / "folder" / "a.ckpt", deployable())
    assert_same(read(tmp_path / "new" / "folder" / "a.ckpt"), deployable())


def test_suffixes():
    names = {"a.pth": ".pth", "a.PT": ".pth", "a.pth.tar": ".pth", "a.b.ckpt": ".ckpt", "a.safetensors": ".safetensors"}
    assert {name: file_format(name) for name in names} == names
    for name in ("a.bin", "pth", "a.tar", "a.ckpt.zip"):
        with pytest.raises(UserError, match="unknown suffix"):
            file_format(name)
    with pytest.raises(UserError, match="exported model, not a checkpoint"):
        file_format("model.onnx")


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_cut_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write(path, deployable())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=f"a{suffix} is not a readable"):
        read(path)


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT_VERSION", FORMAT_VERSION + 1)
    write(tmp_path / "a.ckpt", deployable())
    monkeypatch.undo()
    with pytest.raises(UserError, match=f"has format {FORMAT_VERSION + 1}, this program knows {FORMAT_VERSION}"):
        read(tmp_path / "a.ckpt")


def test_a_damaged_description_is_refused(tmp_path):
    write_ckpt(tmp_path / "a.ckpt", tensors() | {"__meta__": np.frombuffer(b"[1", np.uint8)})
    with pytest.raises(UserError, match="description .* is damaged"):
        read(tmp_path / "a.ckpt")


def test_own_files_have_no_foreign_layout(tmp_path):
    write(tmp_path / "a.ckpt", deployable())
    with pytest.raises(UserError, match="own file, not of the layout u2pl"):
        read(tmp_path / "a.ckpt", dialect="u2pl")
    with pytest.raises(UserError, match="unknown layout 'nonsense'; known: torch, mindspore, u2pl"):
        read(tmp_path / "a.ckpt", dialect="nonsense")


def test_layouts_belong_to_formats(tmp_path):
    with pytest.raises(UserError, match="the layout u2pl is that of .pth files"):
        write(tmp_path / "a.ckpt", deployable(), "u2pl")
    with pytest.raises(UserError, match="writing .pth needs PyTorch"):
        write(tmp_path / "a.pth", deployable())
    with pytest.raises(UserError, match="the layout cpcl holds branch1, branch2, not student, teacher"):
        content_for(tmp_path / "a.pth", training(), "cpcl")


def test_the_authors_layout_of_a_training_state():
    state = Checkpoint(meta=CheckpointMeta(epoch=3, miou=0.25), networks=training().networks)
    payload = content_for("ckpt.pth", state, "u2pl")
    assert list(payload) == ["epoch", "model_state", "optimizer_state", "teacher_state", "best_miou"]
    assert payload["optimizer_state"] is None
    assert (payload["epoch"], payload["best_miou"]) == (3, 0.25)
    assert "module.encoder.bn1.running_mean" in payload["model_state"]
    assert "module.decoder.classifier.8.bias" in payload["teacher_state"]


@pytest.mark.parametrize(
    ("role", "key"), [("teacher", "teacher_state"), ("student", "model_state"), (None, "model_state")]
)
def test_a_single_network_goes_to_the_place_of_its_role(role, key):
    single = Checkpoint(meta=CheckpointMeta(role=role), networks={"model": tensors()})
    payload = content_for("a.pth", single, "u2pl")
    assert [name for name, value in payload.items() if isinstance(value, dict)] == [key]
    assert payload.keys() - {key} == {"epoch", "optimizer_state", "best_miou"}


class FullDisk(io.FileIO):
    """A file on a disk that is full after a few bytes."""

    def write(self, data):
        if self.tell() + len(data) > 500:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("fails", ["write", "fsync"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, capsys, suffix, fails):
    path = tmp_path / f"a{suffix}"
    write(path, deployable())
    before = path.read_bytes()
    if fails == "write":
        monkeypatch.setattr("builtins.open", lambda name, mode="r", *_, **__: FullDisk(name, mode))
        monkeypatch.setattr(Path, "write_bytes", lambda self, data: FullDisk(self, "w").write(data))
    else:
        monkeypatch.setattr(
            os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
        )
    changed = Checkpoint(meta=CheckpointMeta(), networks={"model": tensors(5)})
    code = run_command(lambda _: write(path, changed))
    monkeypatch.undo()
    assert code == 2
    assert capsys.readouterr().err.startswith("error: no space left")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_no_framework_is_imported(tmp_path):
    write(tmp_path / "a.ckpt", deployable())
    program = (
        "import sys; from common.checkpoints.checkpoint import read, write; c = read(sys.argv[1]); write(sys.argv[2], c); "
        "assert not {'torch', 'mindspore', 'onnxruntime'} & set(sys.modules), 'a framework was imported'"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.ckpt"), str(tmp_path / "b.safetensors")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same(read(tmp_path / "b.safetensors"), deployable())
