"""``python -m onnx_impl.eval EXPERIMENT``: evaluate in ONNX Runtime an exported model, or a checkpoint after export."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from common.command_line import run_command, run_module
from common.config.schema import ExperimentConfig
from common.errors import UserError
from common.evaluation.command import run
from common.experiment import dump
from common.models.model_folder import CONFIG
from common.models.stored_network import check_fits
from common.prediction.predictor import Predictor


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only ONNX Runtime knows."""
    parser.add_argument(
        "--provider", choices=("cpu", "cuda", "tensorrt"), default="cpu", help="what must run it (default: cpu)"
    )


def load_predictor(
    path: Path, config: ExperimentConfig, role: str | None, options: argparse.Namespace
) -> tuple[Predictor, str]:
    """Return the predictor of a model or of an exported checkpoint on the provider, and the network's role."""
    from onnx_impl.predictor import OnnxPredictor

    if path.suffix == ".onnx":
        predictor = OnnxPredictor(path, options.provider, config.trainer.threads)
    else:
        predictor = _exported(path, config, role, options)
    metadata = predictor.metadata
    if role not in (None, metadata.role):
        raise UserError(f"{path} holds the network {metadata.role}, not {role}; export that one with --role")
    if metadata.head != config.evaluation.head:
        raise UserError(
            f"{path} was exported with head={metadata.head}; evaluate it with evaluation.head={metadata.head}, or export the "
            f"other one with --head {config.evaluation.head}"
        )
    check_fits(metadata, config, path)
    return predictor, metadata.role


def _exported(path: Path, config: ExperimentConfig, role: str | None, options: argparse.Namespace) -> Predictor:
    """Export a checkpoint to a temporary file, which the session no longer needs once it has loaded it."""
    from onnx_impl.predictor import OnnxPredictor

    with tempfile.TemporaryDirectory() as folder:
        model, settings = Path(folder) / "model.onnx", Path(folder) / CONFIG
        settings.write_text(dump(config), encoding="utf-8")
        said = run_module(
            "converters.export_onnx",
            str(path),
            str(model),
            "--experiment",
            folder,
            "--head",
            config.evaluation.head,
            *(["--role", role] if role else []),
        )
        print(said, end="", file=sys.stderr)
        return OnnxPredictor(model, options.provider, config.trainer.threads)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    run("onnx", arguments, load_predictor, add_options)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
