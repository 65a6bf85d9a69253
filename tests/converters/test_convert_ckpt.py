"""Conversion between formats and layouts is exact there and back, and fails in one line."""

import hashlib
import itertools
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from common.checkpoints.checkpoint import Checkpoint, read
from common.checkpoints.layouts import DIALECTS
from common.checkpoints.meta import CheckpointMeta
from common.command_line import run_command
from common.errors import UserError
from converters.convert import convert, save
from converters.convert_ckpt import main
from tests.places import PROJECT

FORMATS = (".pth", ".ckpt", ".safetensors")


def tensors(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {
        "encoder.conv1.weight": (4, 3, 3, 3),
        "classifier.project.weight": (2, 4, 1, 1),
        "classifier.project.bias": (2,),
    }
    shapes |= {f"encoder.bn1.{leaf}": (4,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["encoder.conv1.weight"][0, 0, 0] = (np.nan, np.inf, -0.0)
    return arrays | {"encoder.bn1.num_batches_tracked": np.array(2**40 + seed)}


def deployable() -> Checkpoint:
    return Checkpoint(meta=CheckpointMeta(role="teacher", classes=("ä", "b"), miou=0.1), networks={"model": tensors(0)})


def training() -> Checkpoint:
    state = {"momentum/encoder.bn1.weight": np.arange(4.0, dtype=np.float32), "empty": np.zeros((0, 3), np.float32)}
    networks = {"student": tensors(1), "teacher": tensors(2)}
    return Checkpoint(meta=CheckpointMeta(role="teacher", iteration=7), networks=networks, state=state)


def assert_bits(arrays, wanted):
    assert set(arrays) == set(wanted)
    for name, array in wanted.items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape, name
        assert arrays[name].tobytes() == array.tobytes(), name


def assert_same(converted: Checkpoint, wanted: Checkpoint):
    assert converted.meta == wanted.meta
    assert set(converted.networks) == set(wanted.networks)
    for role, arrays in wanted.networks.items():
        assert_bits(converted.networks[role], arrays)
    assert_bits(converted.state, wanted.state)


def need_torch(*suffixes):
    if ".pth" in suffixes:
        pytest.importorskip("torch")


@pytest.mark.parametrize(("first", "second"), list(itertools.product(FORMATS, FORMATS)))
def test_a_network_goes_there_and_back(tmp_path, first, second):
    need_torch(first, second)
    start, middle, end = (
        tmp_path / f"{name}{suffix}" for name, suffix in zip("abc", (first, second, first), strict=True)
    )
    save(start, deployable())
    convert(start, middle)
    convert(middle, end)
    assert_same(read(middle), deployable())
    assert_same(read(end), deployable())
    # .safetensors files have their own order of tensors, which the others then keep.
    if second != ".safetensors":
        assert end.read_bytes() == start.read_bytes()


@pytest.mark.parametrize(("first", "second"), list(itertools.product((".pth", ".ckpt"), repeat=2)))
def test_a_training_state_goes_there_and_back(tmp_path, first, second):
    need_torch(first, second)
    start, middle, end = (
        tmp_path / f"{name}{suffix}" for name, suffix in zip("abc", (first, second, first), strict=True)
    )
    save(start, training())
    convert(start, middle)
    convert(middle, end)
    assert_same(read(middle), training())
    assert end.read_bytes() == start.read_bytes()


VALUES = {
    "epoch": 80, "best_miou": np.float64(0.75), "iteration": 11, "arch": "DistributedDataParallel", "monitor_best": 75.25,
    "previous_best": np.float64(75.25),
}  # fmt: skip
"""What the authors' files hold beside networks and optimisers."""


def authors_file(path: Path, dialect: str) -> dict:
    """Save a file of the authors' layout with tensors for every rule and an optimiser, and return its content as arrays."""
    torch = pytest.importorskip("torch")
    layout = DIALECTS[dialect]
    rng = np.random.default_rng(3)
    parts: dict = {}
    for slot in layout.slots:
        part = parts.setdefault(slot.key, {})
        for _, foreign in layout.rules:
            for leaf in ("conv1.weight", "bn1.weight", "bn1.running_mean", "bn1.num_batches_tracked"):
                array = rng.standard_normal(5).astype(np.float32) if "num" not in leaf else np.array(9)
                part[f"{layout.module_prefix}{slot.prefix}{foreign}.0.{leaf}"] = array
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    content = (
        parts[""] if "" in parts else {key: parts.get(key, VALUES.get(key, optimizer)) for key in layout.wrapper.keys}
    )
    content |= {name: np.ones((2, 3), np.float32) for name in layout.wrapper.state}

    def tensors(value):
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value)
        return {key: tensors(item) for key, item in value.items()} if isinstance(value, dict) else value

    torch.save(tensors(content), path)
    return content


@pytest.mark.parametrize(
    "dialect", [name for name, layout in DIALECTS.items() if ".pth" in layout.suffixes and not layout.native]
)
@pytest.mark.parametrize("middle", [".pth", ".ckpt"])
def test_the_authors_files_go_there_and_back(tmp_path, dialect, middle):
    content = authors_file(tmp_path / "theirs.pth", dialect)
    written, left = convert(tmp_path / "theirs.pth", tmp_path / f"ours{middle}")
    optimizers = [key for key in content if key.startswith("optimizer")]
    assert written.meta.origin.dialect == (DIALECTS[dialect].marks.same_as or dialect) and left == optimizers
    roles = [slot.role for slot in DIALECTS[dialect].slots]
    assert list(written.networks) == (roles if len(roles) > 1 else ["model"])
    convert(tmp_path / f"ours{middle}", tmp_path / "back.pth", target_dialect=dialect)
    import torch

    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(back) == list(content)
    for key, value in content.items():
        if key in optimizers:
            assert back[key] is None
        elif isinstance(value, dict):
            assert list(back[key]) == list(value)
            assert_bits({name: tensor.numpy() for name, tensor in back[key].items()}, value)
        elif isinstance(value, np.ndarray):
            assert back[key].numpy().tobytes() == value.tobytes()
        else:
            assert back[key] == value


def test_cps_and_cpcl_are_told_apart_by_their_optimisers(tmp_path):
    for dialect in ("cps", "cpcl"):
        authors_file(tmp_path / "theirs.pth", dialect)
        assert read(tmp_path / "theirs.pth").meta.origin.dialect == dialect
    convert(tmp_path / "theirs.pth", tmp_path / "other.pth", target_dialect="cps")
    import torch

    other = torch.load(tmp_path / "other.pth", weights_only=True)
    assert list(other) == ["model", "optimizer_l", "optimizer_r", "epoch", "iteration"] and other["epoch"] == 80


def test_a_run_of_ours_in_the_words_of_another_program(tmp_path):
    torch = pytest.importorskip("torch")
    meta = CheckpointMeta(role="student", epoch=7, miou=0.71234)
    save(tmp_path / "best.ckpt", Checkpoint(meta=meta, networks={"model": tensors(0)}))
    for dialect, wanted in (
        ("usrn", {"arch": "DistributedDataParallel", "epoch": 7, "monitor_best": 71.23}),
        ("unimatch", {"optimizer": None, "epoch": 7, "previous_best": 71.23}),
        ("u2pl", {"epoch": 7, "optimizer_state": None, "best_miou": 0.71234}),
    ):
        convert(tmp_path / "best.ckpt", tmp_path / "theirs.pth", target_dialect=dialect)
        theirs = torch.load(tmp_path / "theirs.pth", weights_only=True)
        assert {key: value for key, value in theirs.items() if not isinstance(value, dict)} == wanted
        assert set(theirs) == set(DIALECTS[dialect].wrapper.keys) - {"teacher_state"}


def test_counters_that_mindspore_does_not_have_are_written_for_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = {name: array for name, array in tensors(0).items() if "num_batches" not in name}
    save(tmp_path / "best.ckpt", Checkpoint(meta=CheckpointMeta(role="student"), networks={"model": arrays}))
    convert(tmp_path / "best.ckpt", tmp_path / "theirs.pth", target_dialect="uccl")
    theirs = torch.load(tmp_path / "theirs.pth", weights_only=True)["model"]
    counter = theirs["module.backbone.bn1.num_batches_tracked"]
    assert counter.dtype == torch.int64 and counter.shape == () and counter == 0
    names = list(theirs)
    assert names[names.index("module.backbone.bn1.running_var") + 1] == "module.backbone.bn1.num_batches_tracked"


def test_the_mindspore_files_of_pcr_go_there_and_back(tmp_path):
    from common.checkpoints.ckpt_file import read_ckpt, write_ckpt

    names = ("auxor.aux.0.weight", "auxor.aux.1.gamma", "auxor.aux.1.moving_mean", "proto_net.proto_list")
    theirs = {f"module.{name}": np.full(3, index, np.float32) for index, name in enumerate(names)}
    write_ckpt(tmp_path / "theirs.ckpt", theirs)
    written, _ = convert(tmp_path / "theirs.ckpt", tmp_path / "ours.safetensors")
    assert written.meta.role == "teacher" and list(written.networks) == ["model"]
    assert set(read(tmp_path / "ours.safetensors").networks["model"]) == {
        "auxiliary.conv.weight", "auxiliary.conv.bias", "auxiliary.bn.weight", "auxiliary.bn.running_mean", "prototypes",
    }  # fmt: skip
    convert(tmp_path / "ours.safetensors", tmp_path / "back.ckpt", target_dialect="pcr-mindspore")
    assert_bits(read_ckpt(tmp_path / "back.ckpt"), theirs)


def test_safetensors_takes_the_network_to_deploy_or_the_chosen_one(tmp_path, capsys):
    save(tmp_path / "last.ckpt", training())
    main([str(tmp_path / "last.ckpt"), str(tmp_path / "a.safetensors")])
    assert_bits(read(tmp_path / "a.safetensors").networks["model"], tensors(2))
    main([str(tmp_path / "last.ckpt"), str(tmp_path / "b.safetensors"), "--role", "student"])
    assert_bits(read(tmp_path / "b.safetensors").networks["model"], tensors(1))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    digest = hashlib.sha256((tmp_path / "b.safetensors").read_bytes()).hexdigest()
    assert lines[1] == (
        f"{tmp_path / 'b.safetensors'}: student 8 tensors; not carried over: teacher, momentum/encoder.bn1.weight, empty; "
        f"sha256 {digest}"
    )


def test_our_own_network_in_the_authors_layout(tmp_path):
    torch = pytest.importorskip("torch")
    save(tmp_path / "last.ckpt", training())
    written, left = convert(tmp_path / "last.ckpt", tmp_path / "u2pl.pth", target_dialect="u2pl")
    assert left == ["momentum/encoder.bn1.weight", "empty"] and not written.state
    theirs = torch.load(tmp_path / "u2pl.pth", weights_only=True)
    assert set(theirs) == set(DIALECTS["u2pl"].wrapper.keys) and theirs["optimizer_state"] is None
    bias = theirs["teacher_state"]["module.decoder.classifier.8.bias"].numpy()
    np.testing.assert_array_equal(bias, tensors(2)["classifier.project.bias"])


class RunsCode:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_that_runs_code_is_refused(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "evil.pth", "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps({"model": {}, "args": RunsCode(tmp_path / "trace")}, protocol=2))
    code = run_command(main, [str(tmp_path / "evil.pth"), str(tmp_path / "out.ckpt")])
    text = capsys.readouterr().err
    assert code == 2 and text.count("\n") == 1 and "mkdir" in text and "refused" in text
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["evil.pth"]


def test_an_archive_that_unpacks_to_more_than_it_holds_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("bomb/data/0", bytes(10_000_000))
    assert (tmp_path / "bomb.pth").stat().st_size < 20_000
    with pytest.raises(UserError, match="bomb.pth: its archive unpacks to more than the file holds"):
        read(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["missing.pth", "out.ckpt"], "no checkpoint at missing.pth"),
        (["in.ckpt", "out.bin"], "unknown suffix"),
        (["in.ckpt", "out.onnx"], "exported model"),
        (["in.zip", "out.ckpt"], "no checkpoint at in.zip"),
        (["in.ckpt", "out.zip"], "unknown suffix"),
        (["cut.ckpt", "out.safetensors"], "cut.ckpt is not a readable MindSpore checkpoint"),
        (["cut.safetensors", "out.ckpt"], "cut.safetensors is not a readable safetensors file"),
        (["in.ckpt", "out.ckpt", "--role", "branch1"], "no network of the role 'branch1'; it has model"),
        (["in.ckpt", "out.safetensors", "--to", "uccl"], "the layout uccl is that of .pth files"),
        (["in.ckpt", "out.ckpt", "--to", "nothing"], "unknown layout 'nothing'"),
        (["in.ckpt", "out.safetensors", "--to", "torchvision"], "has no place for .2.: classifier.project.weight"),
    ],
)
def test_bad_use_is_one_line_and_code_2(tmp_path, monkeypatch, capsys, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    for suffix in (".ckpt", ".safetensors"):
        save(Path(f"in{suffix}"), deployable())
        Path(f"cut{suffix}").write_bytes(Path(f"in{suffix}").read_bytes()[:150])
    before = sorted(os.listdir())
    assert run_command(main, arguments) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert complaint in text.replace("(", ".").replace(")", ".")
    assert sorted(os.listdir()) == before


def test_pth_without_pytorch_says_what_to_install(tmp_path, monkeypatch):
    save(tmp_path / "a.ckpt", deployable())
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "torch_impl.checkpoint", raising=False)
    with pytest.raises(UserError, match="needs PyTorch; install the extra torch"):
        convert(tmp_path / "a.ckpt", tmp_path / "a.pth")
    convert(tmp_path / "a.ckpt", tmp_path / "a.safetensors")


def test_help_imports_no_framework():
    program = (
        "import sys\nfrom converters.convert_ckpt import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'mindspore', 'onnxruntime'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "layouts:" in done.stdout and all(name in done.stdout for name in DIALECTS)
