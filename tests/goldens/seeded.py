"""Weights that follow from names, shapes and a seed: the golden files store no weights, only the seed."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from common.checkpoints.dialects import TORCH_NORM


def seeded_state(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, np.ndarray]:
    """Return an array per name, each from its own generator keyed by ``seed`` and the CRC-32 of the name.

    Running variances and one-dimensional weights are uniform in 0.5..1.5; running means and biases normal with standard
    deviation 0.1, whether a BatchNorm has PyTorch's or MindSpore's names; kernels normal with 1/sqrt(fan-in); counters 0. Float32,
    except the counters (int64).
    """
    return {name: _array(name, tuple(shape), seed) for name, shape in shapes.items()}


def _array(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    leaf = name.rpartition(".")[2]
    leaf = TORCH_NORM.get(leaf, leaf)
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if leaf == "running_var" or (leaf == "weight" and len(shape) == 1):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    scale = 0.1 if leaf in ("running_mean", "bias") else 1 / math.sqrt(math.prod(shape[1:]))
    return (scale * rng.standard_normal(shape)).astype(np.float32)
