"""The two heads of a network with prototypes: export, evaluation in PyTorch and ONNX Runtime, and what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from common.checkpoints.checkpoint import Checkpoint, write
from common.checkpoints.meta import CheckpointMeta
from common.command_line import run_command
from common.errors import UserError
from common.experiment import compose
from tests.onnx.conftest import blocks, fill

EXPERIMENT = "shapes/12/pcr"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> SimpleNamespace:
    """``checkpoint`` and the graphs ``linear`` and ``prototype`` in ``folder``."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch = pytest.importorskip("torch")
    from converters.export_onnx import export
    from torch_impl.checkpoint import network_tensors
    from torch_impl.networks import build_network

    torch.set_num_threads(1)
    config = compose(EXPERIMENT)
    network = build_network(config.network, len(config.dataset.classes)).eval()
    fill(network, config)
    with torch.no_grad():  # some features of images as prototypes, so that every class wins somewhere
        features = network(torch.from_numpy(blocks(2, 64, 64)))["features"].transpose(0, 1).flatten(1).T
        network.prototypes.copy_(features[:: len(features) // len(network.prototypes)][: len(network.prototypes)])
    meta = CheckpointMeta.from_experiment(config, role="teacher")
    folder = tmp_path_factory.mktemp("heads")
    checkpoint = folder / "best.safetensors"
    write(checkpoint, Checkpoint(meta=meta, networks={"model": network_tensors(network)}))
    export(checkpoint, folder / "linear.onnx")
    export(checkpoint, folder / "prototype.onnx", head="prototype")
    return SimpleNamespace(checkpoint=checkpoint, network=network, folder=folder)


def result(main, folder, *arguments: str) -> dict:
    """Return what one evaluation of 6 images writes."""
    command = [EXPERIMENT, "dataset.images=[20, 6]", "--out", str(folder), *map(str, arguments)]
    assert run_command(main, command) == 0
    return json.loads((folder / "result.json").read_text())


@pytest.mark.slow
def test_graphs_say_whose_logits_they_give(models):
    from onnx_impl.predictor import OnnxPredictor

    heads = {name: OnnxPredictor(models.folder / f"{name}.onnx", threads=1) for name in ("linear", "prototype")}
    assert [model.metadata.head for model in heads.values()] == ["linear", "prototype"]
    images = blocks(1, 40, 56, seed=1)
    one, two = (heads[name].logits(images, (40, 56)) for name in ("linear", "prototype"))
    assert one.shape == two.shape and np.abs(one - two).max() > 0.1
    np.testing.assert_array_equal(heads["prototype"].class_ids(images, (40, 56)), two.argmax(1))
    with pytest.raises(UserError, match="own size"):
        heads["prototype"].logits(images, (20, 28))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "prototype"])
@pytest.mark.parametrize("protocol", [(), ("evaluation.protocol=slide", "evaluation.size=48", "evaluation.stride=32")])
def test_both_runtimes_count_the_same_pixels(models, tmp_path, head, protocol):
    from onnx_impl.eval import main as onnx
    from torch_impl.eval import main as torch

    choice = [f"evaluation.head={head}", *protocol]
    expected = result(torch, tmp_path / "torch", *choice, "--checkpoint", models.checkpoint)
    record = result(onnx, tmp_path / "onnx", *choice, "--checkpoint", models.folder / f"{head}.onnx")
    assert expected["protocol"].get("head", "linear") == head and record["protocol"] == expected["protocol"]
    assert record["miou_percent"] == pytest.approx(expected["miou_percent"], abs=0.05)


@pytest.mark.slow
def test_heads_are_different_networks_to_the_metric(models, tmp_path):
    from torch_impl.eval import main

    scores = [
        result(main, tmp_path / head, f"evaluation.head={head}", "--checkpoint", models.checkpoint)["miou_percent"]
        for head in ("linear", "prototype")
    ]
    assert scores[0] != scores[1]


@pytest.mark.slow
def test_a_graph_of_the_other_head_is_refused(models, tmp_path, capsys):
    from onnx_impl.eval import main

    command = [
        EXPERIMENT,
        "evaluation.head=prototype",
        "--checkpoint",
        str(models.folder / "linear.onnx"),
        "--out",
        str(tmp_path),
    ]
    assert run_command(main, command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "head=linear" in error and "--head prototype" in error
    assert not (tmp_path / "result.json").exists()


def test_a_prototype_head_without_prototypes_is_refused(exported, tmp_path, capsys):
    from converters.export_onnx import main

    command = [str(exported.checkpoint), str(tmp_path / "m.onnx"), "--head", "prototype"]
    assert run_command(main, command) == 2
    assert "has no prototypes" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
