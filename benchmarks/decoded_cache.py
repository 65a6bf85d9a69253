"""``python -m benchmarks.decoded_cache``: reading Cityscapes-sized images with and without ``dataset.cache``, in one run.

Draws a tree in Cityscapes' official layout, 1024 x 2048 pixels, and reads it three times: decoded, while the cache is
filled, and from the cache; then the same through the loader of a training run, crops included. Ratios count: seconds depend
on the processor and on whether the operating system has the files in memory, which it has here in both cases.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from common.command_line import positive, run_command
from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import Dataset, open_dataset
from common.experiment import compose
from common.loading.loader import Loader
from common.rng import generator
from common.splits.split import Split

HEIGHT, WIDTH = 1024, 2048
IDS = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33, 0, 4], np.uint8)


def main(arguments: list[str] | None = None) -> None:
    """Draw, read, print, save."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decoded_cache",
        description="Measure what a cache of decoded Cityscapes images gains.",
    )
    parser.add_argument("--images", type=positive, default=12, help="images to draw (default: 12)")
    parser.add_argument("--rounds", type=positive, default=3, help="times that each is read (default: 3)")
    options = parser.parse_args(arguments)
    from benchmarks.machine import save

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "cityscapes"
        draw(root, options.images)
        figures = measure(root, Path(folder) / "cache", options.rounds)
    for name, value in figures.items():
        print(f"{name:32} {value}")
    save(
        "decoded_cache",
        f"python -m benchmarks.decoded_cache --images {options.images} --rounds {options.rounds}",
        figures,
    )


def draw(root: Path, count: int) -> None:
    """Write images whose PNG files are about as large as Cityscapes' (2 to 3 MB), with labels of large regions."""
    for index in range(count):
        name = f"drawn_{index:06}_000000"
        rng = generator(0, "decoded cache", index)
        image = root / "leftImg8bit" / "train" / "drawn" / f"{name}_leftImg8bit.png"
        label = root / "gtFine" / "train" / "drawn" / f"{name}_gtFine_labelIds.png"
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (16, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + rng.integers(-2, 3, (HEIGHT, WIDTH, 3), dtype=np.int16)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(image)
        regions = IDS[rng.integers(0, len(IDS), (32, 64))].repeat(HEIGHT // 32, 0).repeat(WIDTH // 64, 1)
        Image.fromarray(regions).save(label)


def measure(root: Path, cache: Path, rounds: int) -> dict[str, float]:
    """Return seconds per image and their ratios, and megabytes per image of both forms."""
    config = compose("cityscapes/all/suponly", [f"dataset.root={root}", "loader.workers=0", "loader.batch_labelled=2"])
    plain, kept = open_dataset(config.dataset), open_dataset(dataclasses.replace(config.dataset, cache=str(cache)))
    ids = plain.train_ids
    seconds = {
        "decoded": _seconds(lambda: _read(plain, ids), rounds) / len(ids),
        "filling": _seconds(lambda: _read(kept, ids), 1) / len(ids),
        "cached": _seconds(lambda: _read(kept, ids), rounds) / len(ids),
    }
    split = Split(id="all", labelled=ids, unlabelled=(), digest="", unlabelled_digest="", origin="drawn")
    loaders = {"decoded": plain, "cached": kept}
    loaded = {name: _seconds(lambda d=d: _epoch(d, split, config), rounds) / len(ids) for name, d in loaders.items()}
    size = {name: sum(f.stat().st_size for f in where.rglob("*.*")) / len(ids) / 1e6 for name, where in
            {"png": root, "cache": cache}.items()}  # fmt: skip
    return {
        "images": len(ids),
        "read_decoded_seconds": round(seconds["decoded"], 4),
        "read_filling_seconds": round(seconds["filling"], 4),
        "read_cached_seconds": round(seconds["cached"], 4),
        "read_speedup": round(seconds["decoded"] / seconds["cached"], 2),
        "loader_decoded_seconds": round(loaded["decoded"], 4),
        "loader_cached_seconds": round(loaded["cached"], 4),
        "loader_speedup": round(loaded["decoded"] / loaded["cached"], 2),
        "png_megabytes": round(size["png"], 2),
        "cache_megabytes": round(size["cache"], 2),
    }


def _read(data: Dataset, ids: tuple[str, ...]) -> None:
    for image_id in ids:
        data.image(image_id)
        data.label(image_id)


def _epoch(data: Dataset, split: Split, config: ExperimentConfig) -> None:
    for _ in Loader(data, split, config.streams(), config).epoch(0):
        pass


def _seconds(run: Callable[[], None], rounds: int) -> float:
    """Return the shortest of ``rounds`` runs, which other work on the machine disturbed least."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
