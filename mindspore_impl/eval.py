"""``python -m mindspore_impl.eval EXPERIMENT``: evaluate a checkpoint in MindSpore; the PyTorch file mirrors it."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.command_line import run_command
from common.config.schema import ExperimentConfig
from common.evaluation.command import run
from common.prediction.predictor import Predictor


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only MindSpore knows."""
    parser.add_argument("--device", help="auto, cpu, ascend or ascend:N (default: trainer.device)")


def load_predictor(
    path: Path, config: ExperimentConfig, role: str | None, options: argparse.Namespace
) -> tuple[Predictor, str]:
    """Return the predictor of a checkpoint's network on the device, and its role."""
    import mindspore  # noqa: F401  a missing package is reported by its own name

    from mindspore_impl.segmenter import load_predictor as load

    device, head = options.device or config.trainer.device, config.evaluation.head
    predictor, stored = load(path, config, role, device, head, config.trainer.threads)
    return predictor, stored.role


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    run("mindspore", arguments, load_predictor, add_options)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
