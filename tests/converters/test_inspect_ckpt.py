"""What is said of a checkpoint, also of one that nobody knows, and that nothing in it is run."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from common.checkpoints.checkpoint import Checkpoint
from common.checkpoints.meta import CheckpointMeta
from common.command_line import run_command
from common.config.schema import NetworkConfig
from common.config.strict import to_plain
from common.files import sha256
from converters.convert import save
from converters.convert_ckpt import main
from tests.converters import authors
from tests.goldens.seeded import seeded_state


def inspected(path: Path, capsys, *options: str) -> dict[str, list[str]]:
    """The lines before the list of tensors by their first word, and those lines under ``tensors``."""
    assert run_command(main, ["--inspect", str(path), *options]) == 0
    head, _, tensors = capsys.readouterr().out.partition("\ntensors\n")
    rows: dict[str, list[str]] = {"tensors": tensors.splitlines()}
    for line in head.splitlines():
        rows.setdefault(line[:11].strip(), []).append(line[12:])
    return rows


def small(names: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Made-up values with every size cut to at most 6, so that a whole network's names fit in a small file."""
    return seeded_state({name: tuple(min(size, 6) for size in shape) for name, shape in names.items()}, 1)


def test_a_file_of_ours(tmp_path, capsys):
    meta = CheckpointMeta(
        role="teacher", classes=("a", "b"), network=to_plain(NetworkConfig(encoder="tiny")), epoch=3,
        miou=0.5, experiment="shapes/12/u2pl", method="u2pl",
    )  # fmt: skip
    weight = np.array([[1.0, np.nan], [np.inf, -np.inf]], np.float32)
    networks = {"student": {"classifier.project.weight": np.ones((2, 4), np.float32)}, "teacher": {"encoder.w": weight}}
    save(tmp_path / "last.ckpt", Checkpoint(meta=meta, networks=networks, state={"momentum/x": np.zeros(3)}))
    rows = inspected(tmp_path / "last.ckpt", capsys)
    assert rows["sha256"] == [sha256(tmp_path / "last.ckpt")] and rows["format"] == [".ckpt"]
    assert rows["layout"] == ["this project's own, version 1"]
    assert (rows["experiment"], rows["method"], rows["epoch"]) == (["shapes/12/u2pl"], ["u2pl"], ["3"])
    assert rows["classes"] == ["2: a, b"] and rows["built as"][0].startswith("tiny")
    assert rows["NOT FINITE"] == ["teacher encoder.w: 1 NaN, 2 infinite of 4"]
    assert rows["network"] == ["student: 1 tensors, 8 parameters", "teacher: 1 tensors, 4 parameters"]
    assert [line.split() for line in rows["tensors"]] == [
        ["student"], ["classifier.project.weight", "float32", "2x4"], ["teacher"], ["encoder.w", "float32", "2x2"],
        ["state"], ["momentum/x", "float64", "3"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "manifest", "layout", "built"),
    [
        ("u2pl", "manifest_voc_semi_r101.json", "u2pl", "resnet101, deep stem, output stride 8, representation 6"),
        ("cpcl", "network/manifest_voc_r50.json", "cps", "resnet50, deep stem, output stride 16"),
        ("usrn", "manifest_usrn_r50_331.json", "usrn", "resnet50, conv7 stem, output stride 16, subclasses 6"),
        ("uccl", "manifest_resnet101.json", "uccl", "resnet101, deep stem, output stride 16"),
        ("pcr", "manifest_city_mindspore.json", "pcr-mindspore", "resnet101, deep stem, output stride 8, auxiliary"),
    ],
)
def test_the_authors_files_are_recognised_and_described(method, manifest, layout, built, tmp_path, capsys):
    if authors.folder(method) is None:
        pytest.skip(f"no golden files of {method} beside the checkout or in tests/goldens")
    shapes = authors.shapes_of(authors.folder(method) / manifest)
    wrapper = {"model": None, "optimizer_l": None, "optimizer_r": None, "epoch": 5} if layout == "cps" else {}
    wrapper = wrapper or {"epoch": 5, "state_dict": None, "model": None, "model_state": None}
    suffix = ".ckpt" if layout == "pcr-mindspore" else ".pth"
    if suffix == ".pth":
        pytest.importorskip("torch")
    role = "teacher" if suffix == ".ckpt" else "student"
    case = authors.Case(
        dialect=layout, path=Path(manifest), role=role, classes=6, networks={role: small(shapes)}, expected=(),
        wrapper=wrapper,
    )  # fmt: skip
    case.write(tmp_path / f"theirs{suffix}")
    rows = inspected(tmp_path / f"theirs{suffix}", capsys)
    assert rows["layout"][0].startswith(f"{layout}: ") and rows["built as"] == [built]
    assert rows["classes"][0].startswith("6: class 0") and rows["finite"] == ["all values are numbers"]
    assert ("unimatch" in rows["layout"][0]) is (layout == "uccl")
    assert rows["method"] == [{"uccl": "uccl or unimatch", "pcr-mindspore": "pcr"}.get(layout, layout)]
    assert rows.get("epoch", ["5"]) == ["5"]


def test_an_unknown_file_is_shown_as_it_is(tmp_path, capsys):
    from safetensors.numpy import save_file

    save_file({"some.weight": np.ones((2, 3), np.float32), "some.count": np.array(4)}, tmp_path / "a.safetensors")
    rows = inspected(tmp_path / "a.safetensors", capsys)
    assert rows["layout"][0].startswith("none of the known ones (torch, ")
    assert [line.split() for line in rows["tensors"]] == [
        ["some.count", "int64", "scalar"],
        ["some.weight", "float32", "2x3"],
    ]


class RunsCode:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_the_file_is_run(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "evil.pth", "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps(RunsCode(tmp_path / "trace"), protocol=2))
    assert run_command(main, ["--inspect", str(tmp_path / "evil.pth")]) == 2
    text = capsys.readouterr().err
    assert "mkdir, which is more than tensors and plain values; refused" in text and text.count("\n") == 1
    assert not (tmp_path / "trace").exists()
