"""``python -m benchmarks.large_picture``: peak memory of ``onnx_impl.predict --window`` on a picture of 8192 x 8192 pixels, 21 classes.

The same pixels as a PNG, which is read as a whole, and as a tiled TIFF, which is read in rows; each in a process of its own,
with a picture of less than one window as the control: what Python, ONNX Runtime and the network need by themselves. Both answers
must be equal; at the default size the PNG must stay under 1.2 GB and the TIFF under 0.6 GB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from benchmarks.deployment import write_random
from common.command_line import positive, run_command, run_module
from common.errors import CheckFailed
from common.paths import PROJECT
from common.rng import generator

MOST_MIB = {"whole.png": 1.2e9 / 2**20, "tiled.tif": 0.6e9 / 2**20}
"""Limits of a picture of 8192 x 8192 pixels with windows of at most 513."""
NETWORK = ("voc/366/suponly", "network.preset=tiny")
MEASURED = """
import sys
from common.command_line import run_command
from common.machine import peak_memory
from onnx_impl.predict import main
code = run_command(main, sys.argv[1:])
print("peak", peak_memory())
raise SystemExit(code)
"""


def main(arguments: list[str] | None = None) -> None:
    """Draw, run, compare, save."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.large_picture", description=__doc__.split(": ", 1)[1].split("\n")[0]
    )
    parser.add_argument("--side", type=positive, default=8192, metavar="N", help="pixels (default: 8192)")
    parser.add_argument("--window", type=positive, default=513, metavar="N", help="default: 513")
    parser.add_argument("--overlay", action="store_true", help="write overlays, too")
    options = parser.parse_args(arguments)
    from benchmarks.machine import command_of, save

    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options)
    for name, value in figures.items():
        print(f"{name:32} {value}")
    save("large_picture", command_of("large_picture", arguments), figures)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return peak memory in MiB and seconds for the control and both files."""
    write_random(folder / "model.safetensors", *NETWORK)
    run_module("converters.export_onnx", str(folder / "model.safetensors"), str(folder / "model.onnx"))
    draw(folder, options.side)
    figures: dict[str, Any] = {
        "side": options.side,
        "window": options.window,
        "classes": 21,
        "overlay": options.overlay,
    }
    for name in ("control.png", "whole.png", "tiled.tif"):
        started = time.perf_counter()
        figures[f"{name} peak MiB"] = round(peak(folder, name, options), 1)
        figures[f"{name} seconds"] = round(time.perf_counter() - started, 1)
    with Image.open(folder / "out" / "whole.png") as whole, Image.open(folder / "out" / "tiled.png") as tiled:
        figures["pixels that differ"] = int((np.asarray(whole) != np.asarray(tiled)).sum())
    if figures["pixels that differ"]:
        raise CheckFailed(f"{figures['pixels that differ']} pixels differ between the whole picture and its parts")
    for name, most in MOST_MIB.items():
        if options.side <= 8192 and options.window <= 513 and figures[f"{name} peak MiB"] >= most:
            raise CheckFailed(f"{name} took {figures[f'{name} peak MiB']} MiB of at most {most:.0f}")
    return figures


def draw(folder: Path, side: int) -> None:
    """Write coloured squares of 32 pixels with noise as PNG and as tiled TIFF, and the control, one window large."""
    rng = generator(0, "large picture")
    Image.MAX_IMAGE_PIXELS = None
    squares = rng.integers(0, 224, (-(-side // 32), -(-side // 32), 3), np.uint8)
    picture = squares.repeat(32, 0).repeat(32, 1)[:side, :side] + rng.integers(0, 32, (side, side, 1), np.uint8)
    Image.fromarray(picture).save(folder / "whole.png", compress_level=1)
    tifffile.imwrite(folder / "tiled.tif", picture, photometric="rgb", tile=(256, 256), compression="zlib")
    Image.fromarray(picture[:64, :64]).save(folder / "control.png")


def peak(folder: Path, name: str, options: argparse.Namespace) -> float:
    """Return the peak memory of one command, in MiB."""
    command = [
        sys.executable,
        "-c",
        MEASURED,
        folder / "model.onnx",
        folder / name,
        "--out",
        folder / "out",
        "--threads",
        "1",
    ]
    command += ["--window", str(options.window), *([] if options.overlay else ["--overlay", "0"])]
    said = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(PROJECT)}, check=True, capture_output=True, text=True
    ).stdout
    return float(said.split("peak ")[1])


if __name__ == "__main__":
    raise SystemExit(run_command(main))
