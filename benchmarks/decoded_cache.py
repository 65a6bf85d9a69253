"""``python -m benchmarks.decoded_cache``: reading Cityscapes-sized images with and without ``dataset.cache``, in one run.

Draws a tree in Cityscapes' official layout, 1024 x 2048 pixels, and reads it decoded and from a filled cache; then the same through
the loader of a training run, crops included. The operating system has the files in memory in both cases.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.drawn_trees import draw_cityscapes
from benchmarks.harness import options, run_cases
from common.command_line import positive, run_command
from common.datasets.file_dataset import open_dataset
from common.experiment import compose
from common.loading.loader import Loader
from common.splits.split import Split


def main(arguments: list[str] | None = None) -> None:
    """Draw, read, print, save."""
    parser = options("decoded_cache", "Measure what a cache of decoded Cityscapes images gains.", turns=3)
    parser.add_argument("--images", type=positive, default=12, help="images to draw (default: 12)")
    cases = {
        "reading": {"cached": lambda parsed: read(parsed, True), "decoded": lambda parsed: read(parsed, False)},
        "loader": {"cached": lambda parsed: load(parsed, True), "decoded": lambda parsed: load(parsed, False)},
    }
    run_cases("decoded_cache", cases, parser, arguments)


def read(parsed: argparse.Namespace, cached: bool) -> Callable[[], Any]:
    """Return a function that reads every image and label once."""
    folder, _, dataset = _drawn(parsed.images, cached)

    def run(folder=folder):  # which is removed when nobody needs it
        for image_id in dataset.train_ids:
            dataset.image(image_id)
            dataset.label(image_id)

    run()  # fills the cache
    return run


def load(parsed: argparse.Namespace, cached: bool) -> Callable[[], Any]:
    """Return a function that makes the batches of an epoch."""
    folder, config, dataset = _drawn(parsed.images, cached)
    split = Split(
        id="all", labelled=dataset.train_ids, unlabelled=(), digest="", unlabelled_digest="", origin="drawn"
    )  # fmt: skip

    def run(folder=folder):
        for _ in Loader(dataset, split, config.streams(), config).epoch(0):
            pass

    run()
    return run


def _drawn(images: int, cached: bool):
    """Return the temporary folder, the configuration and the data set of drawn images."""
    folder = tempfile.TemporaryDirectory()
    root = Path(folder.name) / "cityscapes"
    draw_cityscapes(root, images)
    config = compose("cityscapes/all/suponly", [f"dataset.root={root}", "loader.workers=0", "loader.batch_labelled=2"])
    cache = str(Path(folder.name) / "cache") if cached else config.dataset.cache
    return folder, config, open_dataset(dataclasses.replace(config.dataset, cache=cache))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
