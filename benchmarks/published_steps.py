"""``python -m benchmarks.published_steps [--memory 20]``: one real training step of each published row, on the CPU.

Network, crop and method are as published, images and labels are drawn, backbones have no weights. The batch is the largest that
fits ``--memory`` by the estimate of ``experiments.fits``, at most that of one of the authors' GPUs, at least one image of either
list, two where the method refuses one. Each step runs in a process of its own, whose largest memory stands beside the estimate.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from functools import partial

from benchmarks.machine import save
from common.command_line import positive, run_command, run_module, user_path
from common.config.schema import ExperimentConfig
from common.errors import CheckFailed
from common.experiment import compose
from experiments.fits import GIB, Memory, batch, estimated, extent, gpus, kept_estimate, published


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    figures, done = {}, set()
    for name in published():
        dataset, _, method = name.split("/")
        config = compose(name)
        row = f"{dataset} {method} {config.augment.crop}"
        if row in done or options.only not in row:
            continue
        done.add(row)
        step = kept_estimate(
            options.cache, f"{dataset} {method} {config.network.encoder} float32", partial(estimated, name, [])
        )
        figures[row] = measured(name, config, step, options.memory)
        print(f"{row:32} {figures[row]['text']}", flush=True)
    if not figures:
        raise CheckFailed(f"--only {options.only} is in no row's name")
    command = f"python -m benchmarks.published_steps {' '.join(sys.argv[1:] if arguments is None else arguments)}"
    save("published_steps", command, {"memory_gib": options.memory, "steps": figures})


def measured(name: str, config: ExperimentConfig, step: Memory, memory: float) -> dict[str, object]:
    """Run one step of a row and return its batch, memory and time, estimates beside them and one line of text."""
    total, crop = batch(config), config.augment.crop
    area, number = extent(config, crop), gpus(config)
    least = 2 if config.method.passed_alone or config.augment.crop < 64 else 1
    ratio = [size // total[0] or 1 for size in total]
    most = max(total[0] // number, least)
    images = next((count for count in range(most, least, -1) if step.gib(area, count) <= memory), least)
    counts = [max(images * each, *(stream.one_of for stream in config.streams())) for each in ratio]
    shown = " + ".join(map(str, counts))
    sizes = [str(count) for count in counts]
    outcome = json.loads(
        run_module("experiments.step_memory", name, "--crop", str(crop), "--images", *sizes, "--whole").splitlines()[-1]
    )
    found, estimate = outcome["bytes"] / GIB, step.gib(area, images)
    published_estimate = step.gib(area, total[0] / number)
    text = (
        f"{shown} images: {found:.1f} GiB (estimate {estimate:.1f}), {outcome['cpu_seconds']:.0f} CPU s, loss {outcome['loss']:.3f}; "
        f"{' + '.join(f'{size // number}' for size in total)} of each published process: {published_estimate:.1f} GiB"
    )
    return {
        "images": counts, "crop": crop, "estimate_gib": round(estimate, 2), "process_gib": round(found, 2),
        "published_process_gib": round(published_estimate, 2), "step": dataclasses.asdict(step), "text": text,
    } | {key: round(outcome[key], 3) for key in ("seconds", "cpu_seconds", "loss")}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published_steps", description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=positive, default=20, metavar="GIB", help="of this machine (default: 20)")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="rows whose name (DATASET METHOD CROP) has this in it"
    )
    parser.add_argument("--cache", type=user_path, metavar="FILE", help="estimates that are kept; see experiments.fits")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
