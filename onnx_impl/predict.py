"""``python -m onnx_impl.predict MODEL.onnx IMAGES --out DIR``: segment pictures and videos with ONNX Runtime and nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.command_line import run_command
from common.segmenting.command import run
from common.segmenting.segmenter import Segmenter
from onnx_impl.providers import add_provider_options, provider_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only ONNX Runtime knows."""
    add_provider_options(parser)


def open_segmenter(path: Path, options: argparse.Namespace) -> Segmenter:
    """Return an exported or packaged model on the provider."""
    from onnx_impl import segmenter

    return segmenter.open_segmenter(path, provider_options(options, options.threads))


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    run("onnx", arguments, open_segmenter, add_options)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
