"""``python -m onnx_impl.bench MODEL.onnx``: how fast a model runs on what really ran it, as a line and as JSON."""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from common.command_line import positive, run_command
from common.errors import UserError
from common.files import sha256, write_json_atomic
from common.machine import describe
from common.rng import generator


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    if options.json is not None and options.json.is_dir():
        raise UserError(f"--json {options.json} is a folder; name a file")

    from onnx_impl.predictor import OnnxPredictor

    predictor = OnnxPredictor(options.model, options.provider, options.threads)
    seconds = measure(predictor, (options.batch, *options.size), options.warm_up, options.runs)
    report = summarise(seconds, predictor, options)
    print(
        f"{options.model}: {report['output']} at {options.size[0]}x{options.size[1]}, batch {options.batch}: median "
        f"{report['median_ms']:.2f} ms, {report['images_per_second']:.2f} images/s on {report['device']} "
        f"(ONNX Runtime {report['versions']['onnxruntime']}, {options.runs} runs after {options.warm_up})"
    )
    if options.json is not None:
        write_json_atomic(options.json, report)


def measure(predictor: Any, shape: tuple[int, int, int], warm_up: int, runs: int) -> list[float]:
    """Return the wall seconds of ``runs`` predictions on a batch of ``shape`` (B, H, W), host array to host array."""
    batch, height, width = shape
    images = generator(0, "benchmark").standard_normal((batch, 3, height, width), np.float32)
    predict = predictor.logits if predictor.metadata.output == "logits" else predictor.class_ids
    seconds = []
    for _ in range(warm_up + runs):
        started = time.perf_counter()
        predict(images, (height, width))
        seconds.append(time.perf_counter() - started)
    return seconds[warm_up:]


def summarise(seconds: list[float], predictor: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Return what the runs say and everything that is needed to judge and repeat them, as plain JSON values."""
    median = statistics.median(seconds)
    return {
        "model": {"path": str(options.model), "sha256": sha256(options.model)},
        "experiment": predictor.metadata.experiment,
        "output": predictor.metadata.output,
        "size": list(options.size),
        "batch": options.batch,
        "threads": options.threads,
        "device": predictor.runtime.device,
        "warm_up": options.warm_up,
        "runs": options.runs,
        "median_ms": round(1e3 * median, 4),
        "fastest_ms": round(1e3 * min(seconds), 4),
        "slowest_ms": round(1e3 * max(seconds), 4),
        "images_per_second": round(options.batch / median, 4),
        "versions": {
            "onnxruntime": predictor.runtime.version,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": describe(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m onnx_impl.bench", description="Measure how fast an exported model runs."
    )
    parser.add_argument("model", type=Path, help="a .onnx file of converters.export_onnx")
    parser.add_argument(
        "--size", type=positive, nargs=2, default=(321, 321), metavar=("H", "W"), help="image (default: 321 321)"
    )
    parser.add_argument("--batch", type=positive, default=1, metavar="B", help="images at a time (default: 1)")
    parser.add_argument(
        "--provider", choices=("cpu", "cuda", "tensorrt"), default="cpu", help="what must run it (default: cpu)"
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all)")
    parser.add_argument("--warm-up", type=positive, default=3, metavar="N", help="runs that do not count (default: 3)")
    parser.add_argument("--runs", type=positive, default=20, metavar="N", help="runs that count (default: 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers, versions and the machine to FILE")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
