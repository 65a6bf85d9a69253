"""``python -m benchmarks.published_steps [--memory 20]``: one real training step of each published row, on the CPU.

Network, crop and method are as published, images and labels are drawn, backbones have no weights. The batch is the largest that
fits ``--memory`` by the estimates that ``python -m experiments.fits --table --cache FILE`` has kept, at most that of one of the
authors' GPUs, at least one image of either list, two where the method refuses one; a row of which not even that fits is not run, and
says so. Each step runs in a process of its own, which is ended if it takes more than ``--memory``. Rows are kept as they end: the
same command goes on after a break. ``--page`` puts what is kept into ``docs/scale.md``.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import Kept
from common.command_line import positive, run_command, run_module, user_path
from common.config.schema import ExperimentConfig
from common.errors import CheckFailed, UserError
from common.paths import PROJECT
from experiments.fits import GIB, Memory, batch, composed, extent, gpus, published, published_estimate
from experiments.page_part import SCALE, put

FOLDER = PROJECT / "benchmarks"
HEAD = (
    "row", "crop", "encoder", "images", "process GiB", "estimate", "CPU s", "authors' images per process", "estimate",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    out = options.out or FOLDER / f"published_steps-{datetime.date.today().isoformat()}.json"
    kept = Kept(out, f"python -m benchmarks.published_steps --memory {options.memory}")
    if options.page:
        if not kept.figures:
            raise UserError(f"{out} has no rows: measure first, or name another file with --out")
        put(SCALE, "published steps", page(kept))
        return
    estimates = Kept(options.estimates or _newest("fits"), "")
    rows = rows_of(options.only)
    for row, name in rows.items():
        step = published_estimate(estimates, name, "float32", measure=False)
        if step is None:
            raise UserError(
                f"no estimate for {row}: run python -m experiments.fits --table --cache FILE first, then --estimates FILE"
            )
        figures = kept.figure(row, lambda name=name, step=step: measured(name, composed(name), step, options.memory))
        print(f"{row:32} {figures['text']}", flush=True)


def rows_of(only: str = "") -> dict[str, str]:
    """Return by row, a data set with a method and a crop, the first experiment of it; those whose name has ``only`` in it."""
    rows: dict[str, str] = {}
    for name in published():
        dataset, _, method = name.split("/")
        rows.setdefault(f"{dataset} {method} {composed(name).augment.crop}", name)
    rows = {row: name for row, name in rows.items() if only in row}
    if not rows:
        raise CheckFailed(f"--only {only} is in no row's name")
    return rows


def measured(name: str, config: ExperimentConfig, step: Memory, memory: float) -> dict[str, object]:
    """Run one step of a row and return its batch, memory and time, estimates beside them and one line of text."""
    total, crop = batch(config), config.augment.crop
    area, number = extent(config, crop), gpus(config)
    least = 2 if config.method.passed_alone or crop < 64 else 1
    ratio = [size // total[0] or 1 for size in total]
    most = max(total[0] // number, least)
    images = next((count for count in range(most, least, -1) if step.gib(area, count) <= memory), least)
    counts = [max(images * each, *(stream.one_of for stream in config.streams())) for each in ratio]
    published_estimate = step.gib(area, total[0] / number)
    figures = {
        "images": counts, "crop": crop, "encoder": config.network.encoder, "memory_gib": memory,
        "estimate_gib": round(step.gib(area, counts[0]), 2), "published_images": [size / number for size in total],
        "published_process_gib": round(published_estimate, 2),
    }  # fmt: skip
    shown = f"{_sum(counts)} images of {crop} px"
    beside = f"{_sum(figures['published_images'])} of each published process: {published_estimate:.1f} GiB"
    if figures["estimate_gib"] > memory:
        return figures | {
            "text": f"does not fit {memory:g} GiB: {shown} need {figures['estimate_gib']:.1f} (estimate); {beside}"
        }
    _require_free(figures["estimate_gib"])
    sizes = [str(count) for count in counts]
    told = run_module(
        "experiments.step_memory", name, "--crop", str(crop), "--images", *sizes, "--whole", "--limit", str(memory)
    )
    outcome = json.loads(told.splitlines()[-1])
    figures |= {"process_gib": round(outcome["bytes"] / GIB, 2)}
    figures |= {key: round(outcome[key], 3) for key in ("seconds", "cpu_seconds", "loss")}
    return figures | {
        "text": f"{shown}: {figures['process_gib']:.1f} GiB (estimate {figures['estimate_gib']:.1f}), "
        f"{outcome['cpu_seconds']:.0f} CPU s, loss {outcome['loss']:.3f}; {beside}"
    }


def page(kept: Kept) -> str:
    """Return the rows as a Markdown table."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{' --- |' * len(HEAD)}"]
    for row, figures in kept.figures.items():
        dataset, method, crop = row.split()
        seconds = f"{figures['cpu_seconds']:.0f}" if "cpu_seconds" in figures else "-"
        held = f"{figures['process_gib']:.1f}" if "process_gib" in figures else "does not fit"
        cells = [
            f"{dataset}, {method}", crop, figures["encoder"], _sum(figures["images"]), held,
            f"{figures['estimate_gib']:.1f}", seconds, _sum(figures["published_images"]), f"{figures['published_process_gib']:.1f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _sum(counts: Sequence[float]) -> str:
    return " + ".join(f"{count:g}" for count in counts)


def _newest(name: str) -> Path:
    """Return the newest file of this name in ``benchmarks/``; its date is in its name."""
    files = sorted(FOLDER.glob(f"{name}-*.json"))
    if not files:
        raise UserError(f"benchmarks/ has no {name}-*.json: run python -m experiments.fits --table --cache FILE")
    return files[-1]


def _require_free(needed: float) -> None:
    """Raise :class:`UserError` where the system says that less than ``needed`` GiB of memory are free."""
    information = Path("/proc/meminfo")
    lines = information.read_text().splitlines() if information.exists() else []
    free = [int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable:")]
    if free and free[0] < needed:
        raise UserError(
            f"{free[0]:.1f} GiB of memory are free, the next row needs {needed:.1f}: close other programs and start again, "
            "what has been measured is kept"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published_steps", description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=positive, default=20, metavar="GIB", help="of this machine (default: 20)")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="rows whose name (DATASET METHOD CROP) has this in it"
    )
    parser.add_argument(
        "--estimates", type=user_path, metavar="FILE", help="default: the newest benchmarks/fits-DATE.json"
    )
    parser.add_argument(
        "--out",
        type=user_path,
        metavar="FILE",
        help="where rows are kept (default: benchmarks/published_steps-DATE.json)",
    )
    parser.add_argument("--page", action="store_true", help="measure nothing: put what is kept into docs/scale.md")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
