"""Initial values of a network, drawn on the host so that both frameworks start alike, and ImageNet backbones from files."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np

from common.config.schema import NetworkConfig
from common.networks.tensors import Tensors
from common.rng import generator


def initial_tensors(shapes: Mapping[str, tuple[int, ...]], config: NetworkConfig, seed: int, role: str) -> Tensors:
    """Return float32 values for every neutral name in ``shapes``.

    Encoder convolutions: He normal over fan-out; decoder and heads: uniform in +-1/sqrt(fan_in) (``torch_default``) or He
    normal over fan-in; biases uniform in +-1/sqrt(fan_in); BatchNorm 1 and 0, with ``zero_init_residual`` 0 for the last
    one of a residual block; prototypes standard normal. Each tensor has its own generator keyed by ``seed``, ``role`` and its
    name; the encoder's stages of a subclass branch start as copies of the class branch's, as in USRN's ``models/model.py``.
    """
    normalised = {name.removesuffix("running_mean") for name in shapes if name.endswith("running_mean")}
    last_norm = "bn3.weight" if config.encoder in ("resnet50", "resnet101") else "bn2.weight"
    values = {}
    for name, shape in shapes.items():
        prefix, leaf = name.rpartition(".")[0] + ".", name.rpartition(".")[2]
        if leaf == "num_batches_tracked":
            values[name] = np.zeros(shape, np.int64)
        elif name == "prototypes":
            values[name] = generator(seed, f"initial {role}", zlib.crc32(name.encode())).standard_normal(
                shape, np.float32
            )
        elif prefix in normalised:
            residual_end = config.zero_init_residual and ".layer" in name and name.endswith(last_norm)
            one = leaf in ("weight", "running_var") and not residual_end
            values[name] = np.full(shape, float(one), np.float32)
        else:
            rng = generator(seed, f"initial {role}", zlib.crc32(twin(name).encode()))
            kernel = shapes[prefix + "weight"]
            values[name] = _draw(rng, leaf, shape, math.prod(kernel[1:]), kernel, name, config)
    return values


def _draw(
    rng: np.random.Generator, leaf: str, shape: tuple, fan_in: int, kernel: tuple, name: str, config: NetworkConfig
):
    if leaf == "weight" and name.startswith("encoder."):
        fan_out = kernel[0] * math.prod(kernel[2:])
        return (rng.standard_normal(shape) * math.sqrt(2 / fan_out)).astype(np.float32)
    if leaf == "weight" and config.decoder_init == "kaiming_fan_in":
        return (rng.standard_normal(shape) * math.sqrt(2 / fan_in)).astype(np.float32)
    bound = 1 / math.sqrt(fan_in)
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def twin(name: str) -> str:
    """Return the class branch's name for a tensor of the encoder's subclass branch, any other name as it is."""
    return name.replace("_subclass.", ".") if name.startswith("encoder.") else name
