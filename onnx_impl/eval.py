"""``python -m onnx_impl.eval EXPERIMENT``: evaluate in ONNX Runtime an exported model, or a checkpoint after export."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from common.command_line import run_command, run_module
from common.config.schema import ExperimentConfig
from common.errors import UserError
from common.evaluation.command import run
from common.experiment import dump
from common.models.model_folder import CONFIG
from common.models.stored_network import check_fits
from common.prediction.predictor import Predictor
from onnx_impl.providers import ProviderOptions, add_provider_options, provider_options

if TYPE_CHECKING:
    from onnx_impl.predictor import OnnxPredictor


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only ONNX Runtime knows."""
    add_provider_options(parser)


def load_predictor(
    path: Path, config: ExperimentConfig, role: str | None, options: argparse.Namespace
) -> tuple[Predictor, str]:
    """Return the predictor of a model or of an exported checkpoint on the provider, and the network's role."""
    provider = provider_options(options, config.trainer.threads)
    predictor = (
        open_model(path, config, provider) if path.suffix == ".onnx" else _exported(path, config, role, provider)
    )
    held = predictor.metadata.role
    if role not in (None, held):
        raise UserError(f"{path} holds the network {held}, not {role}; export that one with --role")
    return predictor, held


def open_model(path: Path, config: ExperimentConfig, provider: ProviderOptions) -> OnnxPredictor:
    """Return the predictor of an exported model; raises :class:`UserError` unless it is one of the experiment."""
    from onnx_impl.predictor import OnnxPredictor

    predictor = OnnxPredictor(path, provider)
    metadata = predictor.metadata
    if metadata.head != config.evaluation.head:
        raise UserError(
            f"{path} was exported with head={metadata.head}; evaluate it with evaluation.head={metadata.head}, or export the "
            f"other one with --head {config.evaluation.head}"
        )
    check_fits(metadata, config, path)
    return predictor


def _exported(path: Path, config: ExperimentConfig, role: str | None, provider: ProviderOptions) -> OnnxPredictor:
    """Export a checkpoint to a temporary file, which the session no longer needs once it has loaded it."""
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
        return open_model(model, config, provider)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    run("onnx", arguments, load_predictor, add_options)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
