"""``python -m mindspore_impl.eval EXPERIMENT``: evaluate a checkpoint in MindSpore; the PyTorch file mirrors it."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.command_line import run_command
from common.config.schema import ExperimentConfig
from common.evaluation.command import run
from common.models.stored_network import read_network
from common.prediction.predictor import Predictor


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only MindSpore knows."""
    parser.add_argument("--device", help="auto, cpu, ascend or ascend:N (default: trainer.device)")


def load_predictor(
    path: Path, config: ExperimentConfig, role: str | None, options: argparse.Namespace
) -> tuple[Predictor, str]:
    """Return the predictor of a checkpoint's network on the device, and its role."""
    import mindspore  # noqa: F401  a missing package is reported by its own name

    from mindspore_impl.checkpoint import load_network
    from mindspore_impl.device import choose_device, processors
    from mindspore_impl.networks import build_network
    from mindspore_impl.predictor import MindSporePredictor

    with processors(config.trainer.threads):
        device = choose_device(options.device or config.trainer.device)
    stored = read_network(path, role, config)
    network = build_network(stored.config, len(stored.classes))
    load_network(network, stored.tensors, str(path))
    return MindSporePredictor(network, device, config.evaluation.head), stored.role


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    run("mindspore", arguments, load_predictor, add_options)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
