"""``python -m torch_impl.predict MODEL IMAGES --out DIR``: segment pictures and videos in PyTorch; the MindSpore file mirrors it."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.command_line import run_command
from common.segmenting.command import run
from common.segmenting.segmenter import Segmenter


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what concerns checkpoints and PyTorch."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--role", help="which network of a file of several, e.g. teacher (default: the one to deploy)")
    parser.add_argument("--experiment", metavar="NAME", help="what a file of another program holds, e.g. voc/366/u2pl")
    parser.add_argument(
        "--head", choices=("linear", "prototype"),
        help="whose class ids: the classifier's or those of PCR's prototypes (default: a packaged model's, else linear)",
    )  # fmt: skip


def open_segmenter(path: Path, options: argparse.Namespace) -> Segmenter:
    """Return the network of a checkpoint or packaged model on the device."""
    from torch_impl import segmenter

    return segmenter.open_segmenter(
        path, options.device, options.role, options.experiment, options.head, options.threads
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    run("torch", arguments, open_segmenter, add_options)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
