"""``python -m converters.stages RUNTIME CHECKPOINT IMAGE.npy OUT.npz``: every intermediate result of one network in one runtime.

``converters.parity`` runs it once per runtime, each in a process of its own, when a gate fails.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from common.command_line import run_command, user_path
from common.files import atomic_path
from common.models.stored_network import read_network
from common.runtimes import RUNTIMES


def run_stages(runtime: str, path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return name -> array of every stage, in order, for normalised float32 ``images`` ``[B,3,H,W]``."""
    if runtime == "onnx":
        from onnx_impl.predictor import OnnxPredictor

        return OnnxPredictor(path).stages(images)
    if runtime == "torch":
        from torch_impl.checkpoint import load_network
        from torch_impl.networks import build_network
        from torch_impl.predictor import TorchPredictor as Predictor
    else:
        from mindspore_impl.checkpoint import load_network
        from mindspore_impl.networks import build_network
        from mindspore_impl.predictor import MindSporePredictor as Predictor
    stored = read_network(path)
    network = build_network(stored.config, len(stored.classes))
    load_network(network, stored.tensors, str(path))
    return Predictor(network).stages(images)


def first_difference(reference: dict[str, np.ndarray], other: dict[str, np.ndarray], gate: float) -> dict | None:
    """Return name, shapes and relative error of the first stage that differs by more than ``gate``, None if none does."""
    for name, expected in reference.items():
        computed = other.get(name)
        if computed is None:
            continue
        if computed.shape != expected.shape:
            return {"stage": name, "shapes": [list(expected.shape), list(computed.shape)], "relative_error": None}
        error = float(np.linalg.norm(computed - expected) / max(np.linalg.norm(expected), 1e-30))
        if not error <= gate:
            return {"stage": name, "shapes": [list(expected.shape)], "relative_error": error}
    return None


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m converters.stages", description="Write every intermediate result of one network in one runtime."
    )
    parser.add_argument("runtime", choices=tuple(RUNTIMES))
    parser.add_argument("checkpoint", type=user_path)
    parser.add_argument("images", type=user_path, help=".npy file, normalised float32 [B,3,H,W]")
    parser.add_argument("out", type=user_path, help=".npz file to write")
    parsed = parser.parse_args(arguments)
    stages = run_stages(parsed.runtime, parsed.checkpoint, np.load(parsed.images))
    with atomic_path(parsed.out) as temporary:
        np.savez(temporary, **stages)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
