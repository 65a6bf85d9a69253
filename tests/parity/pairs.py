"""The same network in both frameworks, with the same made-up values, and what the parity tests compare by."""

from __future__ import annotations

import dataclasses
import math
import zlib

import mindspore as ms
import numpy as np
import torch

import mindspore_impl.checkpoint
import mindspore_impl.networks
import torch_impl.checkpoint
import torch_impl.networks
from common.config.schema import NetworkConfig
from common.config.strict import build
from common.config.yaml_files import read_yaml
from common.paths import CONFIGS

RELATIVE_ERROR = 2e-4
"""Gate of the design for logits across runtimes (relative Frobenius error), and for the share of arg-max flips."""


def network_config(name: str, **changes) -> NetworkConfig:
    """Return ``configs/networks/NAME.yaml`` with some fields changed."""
    path = CONFIGS / "networks" / f"{name}.yaml"
    return dataclasses.replace(build(NetworkConfig, read_yaml(path), {"": str(path)}), **changes)


def made_up(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return float32 values for one tensor, keyed by its name: positive scales and variances, small shifts and means."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if len(shape) > 1:
        return rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / math.prod(shape[1:])))
    if leaf in ("weight", "running_var"):
        return rng.uniform(0.6, 1.4, shape).astype(np.float32)
    return rng.uniform(-0.2, 0.2, shape).astype(np.float32)


def pair(config: NetworkConfig, classes: int = 7):
    """Return the PyTorch and the MindSpore network of ``config`` with the same values, both in eval mode."""
    first = torch_impl.networks.build_network(config, classes).eval()
    second = mindspore_impl.networks.build_network(config, classes).set_train(False)
    shapes = {name: tensor.shape for name, tensor in torch_impl.checkpoint.network_tensors(first).items()}
    values = {name: made_up(name, shape) for name, shape in shapes.items()}
    torch_impl.checkpoint.load_network(first, values, "made-up values")
    mindspore_impl.checkpoint.load_network(second, values, "made-up values")
    return first, second


def images(batch: int, height: int, width: int) -> np.ndarray:
    """Return float32 ``[batch,3,height,width]`` noise."""
    return np.random.default_rng(height * width).standard_normal((batch, 3, height, width)).astype(np.float32)


def array(value) -> np.ndarray:
    """Return a copy of a tensor of either framework."""
    return value.asnumpy().copy() if isinstance(value, ms.Tensor) else value.detach().numpy().copy()


def relative_error(value, reference) -> float:
    """Return the Frobenius norm of the difference over that of ``reference``; infinite for different shapes."""
    value, reference = (x if isinstance(x, np.ndarray) else array(x) for x in (value, reference))
    if value.shape != reference.shape:
        return math.inf
    return float(np.linalg.norm(value - reference) / max(np.linalg.norm(reference), 1e-30))


def flips(value, reference) -> float:
    """Return the share of positions whose arg-max over axis 1 differs."""
    return float(np.mean(array(value).argmax(1) != array(reference).argmax(1)))


def torch_gradients(function, inputs: np.ndarray, cotangent: np.ndarray, parameters=()) -> list[np.ndarray]:
    """Return the output of ``function`` and the gradients of inputs and parameters for one cotangent."""
    x = torch.tensor(inputs, requires_grad=True)
    output = function(x)
    return [array(v) for v in (output, *torch.autograd.grad(output, [x, *parameters], torch.tensor(cotangent)))]


def mindspore_gradients(function, inputs: np.ndarray, cotangent: np.ndarray, parameters=()) -> list[np.ndarray]:
    """Return what :func:`torch_gradients` returns, by MindSpore."""

    def weighted(x, weights):
        output = function(x)
        return (output * weights).sum(), output

    gradient = ms.value_and_grad(weighted, 0, tuple(parameters) or None, has_aux=True)
    (_, output), gradients = gradient(ms.Tensor(inputs), ms.Tensor(cotangent))
    by_input, by_parameter = gradients if parameters else (gradients, ())
    return [array(v) for v in (output, by_input, *by_parameter)]
