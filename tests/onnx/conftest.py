"""One small trained-looking network as checkpoint and as exported models, made once for all tests of this folder."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from common.checkpoints.checkpoint import Checkpoint, write
from common.checkpoints.meta import CheckpointMeta
from common.experiment import compose
from common.networks.initial import initial_tensors

EXPERIMENT = "shapes/12/suponly"


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> SimpleNamespace:
    """``checkpoint``, ``model`` (logits), ``ids_model`` (class ids), the PyTorch ``network`` and the ``experiment``."""
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
    meta = CheckpointMeta.from_experiment(config, role="teacher")
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = folder / "best.safetensors"
    write(checkpoint, Checkpoint(meta=meta, networks={"model": network_tensors(network)}))
    export(checkpoint, folder / "logits.onnx")
    export(checkpoint, folder / "ids.onnx", "class_ids")
    return SimpleNamespace(
        checkpoint=checkpoint,
        model=folder / "logits.onnx",
        ids_model=folder / "ids.onnx",
        network=network,
        experiment=config,
    )


@pytest.fixture(scope="session")
def predictor(exported):
    """The exported model in ONNX Runtime, on one thread."""
    from onnx_impl.predictor import OnnxPredictor

    return OnnxPredictor(exported.model, threads=1)


def fill(network, config) -> None:
    """Give the network values under which every class wins somewhere: random ones, logits of mean 0 and deviation 1."""
    import torch

    from torch_impl.checkpoint import load_network, network_tensors

    shapes = {name: value.shape for name, value in network_tensors(network).items()}
    load_network(network, initial_tensors(shapes, config.network, 0, "model"), "initial values")
    with torch.no_grad():
        logits = network(torch.from_numpy(blocks(4, 96, 96)))["logits"]
        deviation, mean = torch.std_mean(logits, (0, 2, 3))
        last = network.classifier.project
        last.weight /= deviation[:, None, None, None]
        last.bias.copy_((last.bias - mean) / deviation)


def blocks(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return float32 ``[B,3,H,W]``: coloured squares of 8 pixels."""
    rng = np.random.default_rng(seed)
    small = rng.standard_normal((batch, 3, -(-height // 8), -(-width // 8))).astype(np.float32)
    return np.ascontiguousarray(small.repeat(8, 2).repeat(8, 3)[:, :, :height, :width])


@pytest.fixture(scope="session")
def images():
    """The function that makes test images."""
    return blocks
