"""A file as the authors' program writes it is imported, and gives the authors' logits in all three runtimes.

One network file per layout, in PyTorch; its first case in the runtimes of ``QUICK`` too, which is slow. ``EVERY_GOLDEN=1`` runs
everything that is here in every runtime.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from common.checkpoints.checkpoint import read
from common.checkpoints.ckpt_file import read_ckpt
from common.models.stored_network import read_network
from converters.convert_ckpt import main
from tests.converters import authors
from tests.goldens.golden import FROBENIUS, NETWORK

pytest.importorskip("torch")
FORMATS = {"torch": ".pth", "mindspore": ".ckpt", "onnx": ".safetensors"}
"""Each runtime reads the authors' weights from another one of our formats."""

MARKS = {
    "torch": [pytest.mark.deep, pytest.mark.slow],
    "mindspore": [pytest.mark.deep, pytest.mark.mindspore, pytest.mark.slow],
    "onnx": [pytest.mark.deep, pytest.mark.onnx, pytest.mark.slow],
}

EVERY = bool(os.environ.get("EVERY_GOLDEN"))

QUICK = {
    ("u2pl", "net_voc_semi_r50_48x64"): ("torch", "mindspore"),
    # ResNet-101 in every file.
    ("pcr", "net_voc_mindspore_names_64x52"): ("torch", "mindspore"),
    ("pcr", "net_voc_torch_names_batch2_49x41"): ("torch",),
    ("cpcl", "logits_voc_r50"): ("torch", "mindspore", "onnx"),
    ("usrn", "net_usrn_r50_331"): ("torch", "mindspore", "onnx"),
    ("uccl", "network_resnet50_city"): ("torch", "mindspore"),
}
"""The runtimes of a file's first case; its other cases differ in names only and run in PyTorch."""


def chosen() -> list:
    """The network files to run; a method whose goldens are not here is a skipped case that says so."""
    cases = [
        pytest.param(method, path, runtime, id=f"{method}-{path.stem}-{runtime}", marks=MARKS[runtime])
        for method, path in authors.network_files()
        for runtime in (FORMATS if EVERY else QUICK.get((method, path.stem), ()))
    ]
    absent = [method for method in authors.PLACES if authors.folder(method) is None]
    reason = "no golden files of this method beside the checkout or in tests/goldens"
    return cases + [pytest.param(m, None, "", id=m, marks=pytest.mark.skip(reason=reason)) for m in absent]


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    """MindSpore leaves files in the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("method", "path", "runtime"), chosen())
def test_the_authors_logits_in_every_runtime(method, path, runtime, tmp_path):
    cases = authors.cases(method, path)
    for case in cases if EVERY or runtime == "torch" else itertools.islice(cases, 1):
        theirs, ours = tmp_path / f"theirs{case.suffix}", tmp_path / f"ours{FORMATS[runtime]}"
        case.write(theirs)
        experiment = ["--experiment", case.settings[0]] if case.settings else []
        main([str(theirs), str(ours), "--role", case.role, *experiment, *case.settings[1:]])
        for expected, (coarse, full) in zip(case.expected, RUNTIMES[runtime](ours, [e.images for e in case.expected])):
            where = f"{path.stem}, {case.dialect} {case.role} {case.settings}, {runtime}"
            agree(coarse, expected.coarse, where)
            if expected.full is not None:
                agree(full[..., :: expected.step, :: expected.step], expected.full, f"{where}, full size")
        ours.unlink()
        theirs.unlink()


def agree(output: np.ndarray, expected: np.ndarray, where: str) -> None:
    """Both gates of a network's output."""
    assert output.shape == expected.shape, where
    difference = output.astype(np.float64) - expected
    assert np.abs(difference).max() <= NETWORK * np.abs(expected).max(), where
    assert np.linalg.norm(difference) <= FROBENIUS * np.linalg.norm(expected.astype(np.float64)), where


def in_torch(path: Path, batches: list[np.ndarray]):
    from torch_impl.checkpoint import load_network
    from torch_impl.networks import build_network
    from torch_impl.predictor import TorchPredictor

    stored = read_network(path)
    network = build_network(stored.config, len(stored.classes))
    load_network(network, stored.tensors, str(path))
    return outputs(TorchPredictor(network), batches)


def in_mindspore(path: Path, batches: list[np.ndarray]):
    pytest.importorskip("mindspore")
    from mindspore_impl.checkpoint import load_network
    from mindspore_impl.networks import build_network
    from mindspore_impl.predictor import MindSporePredictor

    stored = read_network(path)
    network = build_network(stored.config, len(stored.classes))
    load_network(network, stored.tensors, str(path))
    return outputs(MindSporePredictor(network), batches)


def in_onnx(path: Path, batches: list[np.ndarray]):
    pytest.importorskip("onnxruntime")
    from converters.export_onnx import OPSET, export_module, load, trace
    from onnx_impl.graphs import save
    from onnx_impl.predictor import OnnxPredictor

    network, metadata = load(path, "logits", None, None)
    model = path.with_suffix(".onnx")
    save(trace(export_module(network, "logits", False), OPSET), metadata, model)
    predictor = OnnxPredictor(model)
    return [(predictor.run(images, "coarse_logits"), predictor.run(images, "logits")) for images in batches]


def outputs(predictor, batches: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logits at the network's own size and at the images' size."""
    return [(predictor.stages(images)["logits"], predictor.logits(images, images.shape[2:])) for images in batches]


RUNTIMES = {"torch": in_torch, "mindspore": in_mindspore, "onnx": in_onnx}


MANIFESTS = [
    (dialect, method, path)
    for method, pattern, dialects in (
        ("u2pl", "manifest_*.json", ("u2pl",)),
        ("cpcl", "network/manifest_*.json", ("cpcl", "cps")),
        ("pcr", "manifest_*_torch.json", ("pcr",)),
        ("pcr", "manifest_*_mindspore.json", ("pcr-mindspore",)),
        ("usrn", "manifest_*.json", ("usrn",)),
        ("uccl", "manifest_*.json", ("uccl", "unimatch")),
    )
    if authors.folder(method)
    for path in sorted(authors.folder(method).glob(pattern))
    for dialect in dialects
]
WRAPPED = {
    "u2pl": {"epoch": 80, "model_state": None, "optimizer_state": None, "teacher_state": None, "best_miou": 0.7949},
    "cpcl": {"model": None, "optimizer_1": None, "optimizer_2": None, "epoch": 33, "iteration": 1239},
    "cps": {"model": None, "optimizer_l": None, "optimizer_r": None, "epoch": 33, "iteration": 1239},
    "usrn": {"arch": "DistributedDataParallel", "epoch": 61, "state_dict": None, "monitor_best": 71.23},
    "uccl": {"model": None, "optimizer": None, "epoch": 79, "previous_best": 77.08},
}
WRAPPED |= {"pcr": WRAPPED["u2pl"], "unimatch": WRAPPED["uccl"], "pcr-mindspore": {}}


@pytest.mark.parametrize(
    ("dialect", "method", "path"), MANIFESTS, ids=[f"{dialect}-{path.stem}" for dialect, _, path in MANIFESTS]
)
def test_every_name_of_a_manifest_comes_back_with_its_bits(dialect, method, path, tmp_path):
    """One value per tensor: what is held here are names, order, wrapper, number of axes, types and bits."""
    import torch

    shapes = {name: (1,) * len(shape) for name, shape in authors.shapes_of(path).items()}
    roles = ("student", "teacher") if dialect in ("u2pl", "pcr") else ("teacher",)
    roles = roles if "teacher_state" in WRAPPED[dialect] or dialect == "pcr-mindspore" else ("student",)
    if dialect in ("cpcl", "cps", "usrn", "uccl", "unimatch"):
        roles = ("student",)
    networks = {role: authors.seeded_state(shapes, index) for index, role in enumerate(roles)}
    layout = "uccl" if dialect == "unimatch" else dialect
    case = authors.Case(
        dialect=layout, path=path, role=roles[-1], classes=1, networks=networks, expected=(), wrapper=WRAPPED[dialect]
    )
    parts = case.write(tmp_path / f"theirs{case.suffix}")
    main([str(tmp_path / f"theirs{case.suffix}"), str(tmp_path / "ours.ckpt")])
    assert read(tmp_path / "ours.ckpt").meta.origin.dialect == layout
    main([str(tmp_path / "ours.ckpt"), str(tmp_path / f"back{case.suffix}"), "--to", dialect])
    if case.suffix == ".ckpt":
        back = {"": read_ckpt(tmp_path / "back.ckpt")}
    else:
        back = torch.load(tmp_path / "back.pth", weights_only=True)
        assert list(back) == list(WRAPPED[dialect])
        assert all(back[key] == value for key, value in WRAPPED[dialect].items() if key not in parts)
    for key, tensors in parts.items():
        assert list(back[key]) == list(tensors)
        for name, array in tensors.items():
            returned = np.asarray(back[key][name])
            assert (
                returned.dtype == array.dtype
                and returned.shape == array.shape
                and returned.tobytes() == array.tobytes()
            ), name
