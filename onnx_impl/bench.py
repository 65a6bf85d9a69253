"""``python -m onnx_impl.bench MODEL.onnx ...``: models and providers side by side: time, size, memory and what they lose.

Every round runs each model on each provider once, so that what else the machine does hits all alike. Wall times are
given with the processor's time, which a busy machine does not stretch, and a warning where the two part. With ``--data``
mIoU and changed pixels stand in the same row: the first model on the first provider is what the others are compared to.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.command_line import positive, run_command, run_module, user_path
from common.config.schema import ExperimentConfig
from common.errors import UserError
from common.files import sha256, write_json_atomic, write_text_atomic
from common.machine import describe, peak_memory
from common.models.model_folder import experiment_of, model_file
from common.reports import charts
from common.rng import generator
from onnx_impl.providers import Provider, ProviderOptions
from onnx_impl.scores import Score

if TYPE_CHECKING:
    from onnx_impl.predictor import OnnxPredictor

BUSY = 1.2
"""Ratio of wall time to the processor's time per thread from which on wall times say more about the machine's other work."""

PERCENTILES = (50, 95, 99)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One row: a model on a provider. ``load`` is the seconds that opening took."""

    path: Path
    spec: str
    predictor: OnnxPredictor
    load: float

    @property
    def precision(self) -> str:
        """The precision of the file by its nodes, with its 8-bit types."""
        contents = self.predictor.contents
        return " ".join(filter(None, [contents.precision, contents.scheme]))


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of every run that counts: on the clock, and of this process on all processors together."""

    wall: list[float]
    cpu: list[float]


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_intermixed_args(arguments)
    for path, name in ((options.json, "--json"), (options.chart, "--chart")):
        if path is not None and path.is_dir():
            raise UserError(f"{name} {path} is a folder; name a file")
    if options.chart is not None and not charts.available():
        raise UserError(f"--chart {options.chart}: {charts.MISSING}, or leave the option out")
    if options.probe:
        print(json.dumps(footprint(options.models[0], options.provider[0], options)))
        return
    config = experiment_of(options.data, options.settings or []) if options.data else None
    candidates = [open_candidate(path, spec, options.threads) for path in options.models for spec in options.provider]
    load_before = _load_average()
    times = {
        batch: measure([runner(c, batch, options) for c in candidates], options.warm_up, options.runs)
        for batch in options.batch
    }
    scores = score(candidates, config, options.limit) if config else [None] * len(candidates)
    memory = [_peak(candidate, options) for candidate in candidates] if options.memory else [None] * len(candidates)
    rows = [
        row(candidate, {batch: of_batch[index] for batch, of_batch in times.items()}, scores[index], memory[index])
        for index, candidate in enumerate(candidates)
    ]
    what = (
        f"{options.size[0]}x{options.size[1]}, batch {options.batch[0]}, {options.runs} rounds after {options.warm_up}"
    )
    print(f"{what}, {'bytes in, class ids out' if options.end_to_end else 'the network alone'}")
    print(format_table(rows, options.batch))
    for remark in remarks(rows):
        print(f"note: {remark}")
    warning = busy(times[options.batch[0]], candidates, load_before)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    if options.json is not None:
        write_json_atomic(options.json, report(rows, config, load_before, warning, options))
    if options.chart is not None:
        bars = {f"{r['name']} ({r['provider']})": r["cpu_ms"] for r in rows}
        write_text_atomic(options.chart, charts.bar_chart(f"Processor time per image, {what}", bars, "ms"))


def parse_spec(spec: str, threads: int | None) -> ProviderOptions:
    """Return the options of ``PROVIDER`` or ``PROVIDER:WHAT`` with WHAT = fp16, bf16, tf32 or exact-sums."""
    provider, _, what = spec.partition(":")
    changes: dict[str, dict[str, Any]] = {
        "": {}, "fp16": {"precision": "fp16"}, "bf16": {"precision": "bf16"}, "tf32": {"fast": True},
        "exact-sums": {"exact_sums": True},
    }  # fmt: skip
    if what not in changes:
        raise UserError(f"--provider {spec}: {what!r} is not one of {', '.join(filter(None, changes))}")
    return ProviderOptions(provider=provider, threads=threads, **changes[what])


def open_candidate(path: Path, spec: str, threads: int | None) -> Candidate:
    """Open a model, or a packaged model's folder, on a provider and note how long that takes."""
    from onnx_impl.predictor import OnnxPredictor

    file, provider = model_file(path, "onnx"), parse_spec(spec, threads)
    started = time.perf_counter()
    predictor = OnnxPredictor(file, provider)
    return Candidate(path=file, spec=spec, predictor=predictor, load=time.perf_counter() - started)


def runner(candidate: Candidate, batch: int, options: argparse.Namespace) -> Callable[[], Any]:
    """Return what is timed: one prediction on the same made-up images every time."""
    predictor, (height, width) = candidate.predictor, options.size
    rng = generator(0, "benchmark")
    pictures = rng.integers(0, 256, (batch, height, width, 3), np.uint8)
    if options.end_to_end:
        return functools.partial(predictor.picture_class_ids, pictures)
    metadata = predictor.metadata
    images = pictures if metadata.input == "picture" else rng.standard_normal((batch, 3, height, width), np.float32)
    return functools.partial(predictor.run, images, metadata.output)


def measure(runners: Sequence[Callable[[], Any]], warm_up: int, runs: int) -> list[Times]:
    """Return the times of ``runs`` rounds, each of which calls every runner once, after ``warm_up`` rounds."""
    times = [Times([], []) for _ in runners]
    for turn in range(warm_up + runs):
        for run, of_runner in zip(runners, times):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if turn >= warm_up:
                of_runner.wall.append(time.perf_counter() - wall)
                of_runner.cpu.append(time.process_time() - cpu)
    return times


def score(candidates: Sequence[Candidate], config: ExperimentConfig, limit: int | None) -> list[Score]:
    """Return the scores on the experiment's validation images, all in one pass, against the first candidate."""
    from common.datasets.file_dataset import open_dataset
    from common.models.stored_network import check_fits
    from onnx_impl.scores import compare

    for candidate in candidates:
        check_fits(candidate.predictor.metadata, config, candidate.path)
    dataset = open_dataset(config.dataset)
    return compare([candidate.predictor for candidate in candidates], dataset, dataset.val_ids[:limit], config)


def footprint(path: Path, spec: str, options: argparse.Namespace) -> dict[str, float]:
    """Return what a process of its own needs to open and run a model: MiB before opening and at most."""
    from onnx_impl.session import onnxruntime

    onnxruntime()
    before = peak_memory()
    candidate = open_candidate(path, spec, options.threads)
    runner(candidate, options.batch[0], options)()
    return {"before_mib": before, "peak_mib": peak_memory()}


def row(candidate: Candidate, times: dict[int, Times], file_score: Score | None, peak: float | None) -> dict[str, Any]:
    """Return one row of the report as plain JSON values."""
    first = next(iter(times.values()))
    batch = next(iter(times))
    wall = {f"p{share}_ms": round(1e3 * float(np.percentile(first.wall, share)) / batch, 3) for share in PERCENTILES}
    return {
        "name": candidate.path.stem,
        "path": str(candidate.path),
        "sha256": sha256(candidate.path),
        "provider": candidate.spec,
        "device": candidate.predictor.runtime.device,
        "precision": candidate.precision,
        "signature": f"{candidate.predictor.metadata.input} -> {candidate.predictor.metadata.output}",
        "file_mb": round(candidate.path.stat().st_size / 1e6, 2),
        "load_s": round(candidate.load, 3),
        "peak_mib": None if peak is None else round(peak, 1),
        **wall,
        "cpu_ms": round(1e3 * float(np.median(first.cpu)) / batch, 3),
        "images_per_second": {str(b): round(b / float(np.median(t.wall)), 3) for b, t in times.items()},
        "score": None if file_score is None else file_score.plain(),
    }


def format_table(rows: Sequence[dict[str, Any]], batches: Sequence[int]) -> str:
    """Return the rows as a table in Markdown, which a terminal shows as well."""
    head = ["model", "provider", "precision", "MB", "load s", "p50 ms", "p95", "p99", "CPU ms", "times"]
    head += [f"img/s at {batch}" for batch in batches]
    with_memory, with_score = rows[0]["peak_mib"] is not None, rows[0]["score"] is not None
    head += ["peak MiB"] if with_memory else []
    head += ["mIoU %", "worst class", "pixels changed %"] if with_score else []
    lines = [head]
    for item in rows:
        cells = [item["name"], item["provider"], item["precision"], f"{item['file_mb']:.1f}", f"{item['load_s']:.2f}"]
        cells += [f"{item[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms", "cpu_ms")]
        cells.append(f"{rows[0]['cpu_ms'] / item['cpu_ms']:.2f}" if item["cpu_ms"] else "-")
        cells += [f"{item['images_per_second'][str(batch)]:.2f}" for batch in batches]
        cells += [f"{item['peak_mib']:.0f}"] if with_memory else []
        if with_score:
            file_score = item["score"]
            worst = f"{file_score['worst_class']} {-file_score['class_drop']:+.2f}" if item is not rows[0] else "-"
            cells += [f"{file_score['miou']:.3f}", worst, f"{100 * file_score['flips']:.3f}"]
        lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    padded = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths))} |" for line in lines]
    return "\n".join([padded[0], f"| {' | '.join('-' * width for width in widths)} |", *padded[1:]])


def remarks(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return what a reader should know of a row's file: 8-bit types that a processor of the x86 family does not like."""
    slow = [row["name"] for row in rows if row["precision"] == "int8 S8S8" and row["provider"].startswith("cpu")]
    return [
        f"{name} is S8S8, signed activations, which x86 runs much slower than U8S8; onnx_impl.quantize makes that"
        for name in dict.fromkeys(slow)
    ]


def busy(times: Sequence[Times], candidates: Sequence[Candidate], load: float | None) -> str:
    """Return a warning when runs on the CPU waited for the processor, else an empty text."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ratios = []
    for of_candidate, candidate in zip(times, candidates):
        if candidate.predictor.options.provider in ("cpu", "openvino"):
            threads = candidate.predictor.options.threads or processors
            ratios.append(float(np.median(of_candidate.wall)) * threads / max(float(np.median(of_candidate.cpu)), 1e-9))
    if not ratios or max(ratios) <= BUSY:
        return ""
    return (
        f"runs waited for the processor (wall time {max(ratios):.1f} times the processor's, load {load or 0:.1f} on "
        f"{processors} processors): compare the CPU column, or measure again on an idle machine"
    )


def report(
    rows: list[dict[str, Any]],
    config: ExperimentConfig | None,
    load: float | None,
    warning: str,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Return the content of the JSON file: everything that is needed to judge and repeat the run."""
    return {
        "size": list(options.size), "batch": list(options.batch), "threads": options.threads, "warm_up": options.warm_up,
        "runs": options.runs, "end_to_end": options.end_to_end,
        "data": None if config is None else {"experiment": config.name, "limit": options.limit},
        "load_average": load, "warning": warning or None, "rows": rows, "machine": describe(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip


def _peak(candidate: Candidate, options: argparse.Namespace) -> float:
    """Peak memory of a process of its own, in MiB."""
    threads = ["--threads", str(options.threads)] if options.threads else []
    end = ["--end-to-end"] if options.end_to_end else []
    said = run_module(
        "onnx_impl.bench", str(candidate.path), "--provider", candidate.spec, "--size", *map(str, options.size),
        "--batch", str(options.batch[0]), "--probe", *threads, *end,
    )  # fmt: skip
    return json.loads(said.splitlines()[-1])["peak_mib"]


def _load_average() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m onnx_impl.bench", description="Measure models and providers side by side."
    )
    parser.add_argument(
        "models", type=user_path, nargs="+", metavar="MODEL", help=".onnx files, or packaged models' folders"
    )
    parser.add_argument(
        "--provider", nargs="+", default=["cpu"], metavar="SPEC",
        help=f"what must run them: {', '.join(Provider.__args__)}; with :fp16, :bf16, :tf32 or :exact-sums (default: cpu)",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=positive, nargs=2, default=(321, 321), metavar=("H", "W"), help="image (default: 321 321)"
    )
    parser.add_argument(
        "--batch",
        type=positive,
        nargs="+",
        default=[1],
        metavar="B",
        help="images at a time, the first for latency (default: 1)",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all)")
    parser.add_argument(
        "--warm-up", type=positive, default=3, metavar="N", help="rounds that do not count (default: 3)"
    )
    parser.add_argument("--runs", type=positive, default=20, metavar="N", help="rounds that count (default: 20)")
    parser.add_argument(
        "--end-to-end",
        action="store_true",
        help="from a picture's bytes to class ids, with normalising and arg-max wherever they are",
    )
    parser.add_argument(
        "--memory", action="store_true", help="also the peak memory, of a process of its own for each row"
    )
    parser.add_argument("--data", metavar="EXPERIMENT", help="also mIoU and changed pixels on its validation images")
    parser.add_argument("--settings", nargs="+", metavar="a.b=c", help="settings of that experiment")
    parser.add_argument("--limit", type=positive, metavar="N", help="with --data: only the first N images")
    parser.add_argument(
        "--json", type=user_path, metavar="FILE", help="write all numbers, versions and the machine to FILE"
    )
    parser.add_argument(
        "--chart", type=user_path, metavar="FILE", help="write a chart of the CPU column to FILE, an SVG"
    )
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
