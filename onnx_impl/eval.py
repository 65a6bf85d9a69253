"""``python -m onnx_impl.eval EXPERIMENT``: evaluate in ONNX Runtime an exported model, or a checkpoint after export."""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from pathlib import Path

from common.config import ExperimentConfig
from common.errors import UserError, run_command
from common.eval_command import run
from common.predictor import Predictor
from common.stored_network import check_fits


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only ONNX Runtime knows."""
    parser.add_argument(
        "--provider", choices=("cpu", "cuda", "tensorrt"), default="cpu", help="what must run it (default: cpu)"
    )


def load_predictor(path: Path, config: ExperimentConfig, options: argparse.Namespace) -> tuple[Predictor, str]:
    """Return the predictor of a model or of an exported checkpoint on the provider, and the network's role."""
    from onnx_impl.predictor import OnnxPredictor

    if path.suffix == ".onnx":
        predictor = OnnxPredictor(path, options.provider, config.trainer.threads)
    else:
        predictor = _exported(path, config, options)
    metadata = predictor.metadata
    if options.role not in (None, metadata.role):
        raise UserError(f"{path} holds the network {metadata.role}, not {options.role}; export that one with --role")
    if metadata.head != config.evaluation.head:
        raise UserError(
            f"{path} was exported with head={metadata.head}; evaluate it with evaluation.head={metadata.head}, or export the "
            f"other one with --head {config.evaluation.head}"
        )
    check_fits(
        {"classes": metadata.classes, "network": metadata.network, "mean": metadata.mean, "std": metadata.std},
        config,
        path,
    )
    return predictor, metadata.role


def _exported(path: Path, config: ExperimentConfig, options: argparse.Namespace) -> Predictor:
    """Export a checkpoint to a temporary file, which the session no longer needs once it has loaded it."""
    from converters.export_onnx import export
    from onnx_impl.predictor import OnnxPredictor

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        export(
            path,
            model,
            role=options.role,
            experiment=config,
            say=functools.partial(print, file=sys.stderr),
            head=config.evaluation.head,
        )
        return OnnxPredictor(model, options.provider, config.trainer.threads)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    run("onnx", arguments, load_predictor, add_options)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
