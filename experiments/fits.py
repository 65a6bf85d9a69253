"""``python -m experiments.fits EXPERIMENT [--memory 24]``: memory of a training step, and what makes it fit a device.

A step of two images of either list runs at two small sizes on the CPU (``experiments.step_memory``); what grows between them grows
with the images' pixels, the rest stays. ``--table`` does so for every published row and prints ``docs/scale.md``'s table.
Estimates are of what PyTorch allocates; a device's own libraries take part of it for themselves, for which 1 GiB is set aside.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.command_line import EXPERIMENT, positive, run_command, run_module, user_path
from common.config.schema import ExperimentConfig
from common.errors import UserError
from common.experiment import compose, known_experiments
from common.files import write_json_atomic
from common.networks.plan import map_sizes

GIB = 2**30
RESERVED = 1.0
"""GiB of a device that its context and its libraries' workspaces take; not measured."""
SMALL = (129, 193)
"""Sides of the images of the measured steps; of an experiment with even crops they are one pixel smaller.

With much smaller ones the largest sum is that of weights, momenta and gradients, and says nothing of the passes in larger images.
"""
VARIANTS = {
    "float32": (),
    "bf16": ("trainer.precision=bf16",),
    "float32, recompute": ("trainer.recompute=true",),
    "bf16, recompute": ("trainer.precision=bf16", "trainer.recompute=true"),
}
"""Settings that change the memory of a step without another batch."""
IN_TABLE = ("float32", "bf16")


@dataclass(frozen=True)
class Memory:
    """Bytes of a step: ``fixed``, and ``each`` per unit of :func:`extent` of one labelled image and what comes with it."""

    fixed: float
    each: float

    def gib(self, extent: float, images: float) -> float:
        """Return GiB of a step with ``images`` labelled images of an ``extent``."""
        return (self.fixed + self.each * extent * images) / GIB


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_intermixed_args(arguments)
    if options.table:
        print(table(options.cache, not options.kept))
        return
    if options.experiment is None:
        raise UserError("name an experiment, e.g. voc/366/u2pl, or use --table")
    config = compose(options.experiment, options.overrides)
    memories = {
        name: estimated(options.experiment, [*options.overrides, *settings]) for name, settings in known(config).items()
    }
    print("\n".join(report(config, memories, options.memory)))


def known(config: ExperimentConfig) -> dict[str, tuple[str, ...]]:
    """Return the variants whose settings there are."""
    options = {field.name for field in dataclasses.fields(config.trainer)}
    names = {name: {setting.split("=")[0].split(".")[1] for setting in settings} for name, settings in VARIANTS.items()}
    return {name: VARIANTS[name] for name, needed in names.items() if needed <= options}


def batch(config: ExperimentConfig) -> list[int]:
    """Return labelled and, if the method has any, unlabelled images of a step over all processes."""
    sizes = [config.loader.batch_labelled]
    return sizes + ([config.loader.batch_unlabelled] if hasattr(config.loader, "batch_unlabelled") else [])


def extent(config: ExperimentConfig, crop: int) -> float:
    """Return the mean area of the image, of the decoder's maps and of the last stage's, the latter in pixels of the image."""
    sides = map_sizes(config.network, (crop, crop))
    strides = {"low": 4, "high": 8 if config.network.encoder == "tiny" else config.network.output_stride}
    areas = [crop**2, *((sides[name][0] * stride) ** 2 for name, stride in strides.items())]
    return sum(areas) / len(areas)


def estimated(experiment: str, overrides: Sequence[str], sizes: Sequence[int] = SMALL) -> Memory:
    """Measure two small steps in a process of their own, and return what they say of larger ones."""
    config = compose(experiment, overrides)
    total = batch(config)
    images = [2, *(-(-2 * count // total[0]) for count in total[1:])]
    sizes = [size - (config.augment.crop % 2 == 0) for size in sizes]
    first, second = measured(experiment, overrides, sizes, images)
    areas = [extent(config, size) for size in sizes]
    each = (second - first) / (areas[1] - areas[0]) / images[0]
    return Memory(first - each * areas[0] * images[0], each)


def measured(experiment: str, overrides: Sequence[str], crops: Sequence[int], images: Sequence[int]) -> list[int]:
    """Return the bytes of a step with each of ``crops`` (``experiments.step_memory``)."""
    numbers = ["--crop", *map(str, crops), "--images", *map(str, images)]
    output = run_module("experiments.step_memory", experiment, *overrides, *numbers)
    return [json.loads(line)["bytes"] for line in output.splitlines() if line.startswith("{")]


def report(config: ExperimentConfig, memories: Mapping[str, Memory], memory: float) -> list[str]:
    """Return lines: GiB by variant and number of processes, and what makes the step fit ``memory`` GiB."""
    total, area = batch(config), extent(config, config.augment.crop)
    counts = [number for number in range(1, total[0] + 1) if all(size % number == 0 for size in total)]
    images = " + ".join(map(str, total))
    lines = [
        f"{config.name}: {images} images of {config.augment.crop} px, {config.network.encoder}; "
        f"the authors' hardware: {config.reference.hardware or 'not stated'}",
        "estimated GiB per process, by processes (trainer.accumulate=N on one process is like N processes):",
        " " * 20 + "".join(f"{number:8}" for number in counts),
    ]
    for name, step in memories.items():
        lines.append(f"{name:20}" + "".join(f"{step.gib(area, total[0] / number):8.1f}" for number in counts))
    lines.append(f"what fits {memory:g} GiB, {RESERVED:g} of them set aside:")
    return lines + [f"  {line}" for line in _remedies(config, memories, counts, area, memory - RESERVED)]


def _remedies(
    config: ExperimentConfig, memories: Mapping[str, Memory], counts: Sequence[int], area: float, budget: float
) -> list[str]:
    total, lines = batch(config), []
    for name, step in memories.items():
        how = " ".join(VARIANTS[name]) or "as it is"
        number = next((number for number in counts if step.gib(area, total[0] / number) <= budget), None)
        if number == 1:
            lines.append(f"{name}: the whole batch on one process ({how})")
        elif number:
            lines.append(
                f"{name}: {number} processes, or trainer.accumulate={number} on one with batches of 1/{number} ({how}); "
                "optimizer.lr stays, because an optimiser step has as many images"
            )
        most = _most(step, area, budget, total[0])
        if most and most < total[0]:
            sizes = [size * most // total[0] for size in total]
            names = ("loader.batch_labelled", "loader.batch_unlabelled")
            chosen = " ".join(f"{option}={size}" for option, size in zip(names, sizes))
            rate = config.optimizer.lr * most / total[0]
            lines.append(
                f"{name}: {chosen} optimizer.lr={rate:.3g} on one process ({how}): the rate in proportion to the batch; "
                "another experiment than the published one"
            )
    return lines or [f"nothing, not even one labelled image at a time; a crop smaller than {config.augment.crop} would"]


def _most(step: Memory, area: float, budget: float, total: int) -> int:
    """Return how many of ``total`` labelled images fit, at least 2 because of BatchNorm, else 0."""
    fitting = [images for images in range(2, total + 1) if step.gib(area, images) <= budget]
    return max(fitting, default=0)


def gpus(config: ExperimentConfig) -> int:
    """Return how many GPUs the authors state, 1 where they state none."""
    found = re.match(r"(\d+)\s*(?:x|GPU)", config.reference.hardware)
    return int(found[1]) if found else 1


def kept_estimate(cache: Path | None, key: str, estimate: Callable[[], Memory] | None) -> Memory | None:
    """Return what the file ``cache`` keeps under ``key``; what is not there is estimated and kept (no ``estimate``: None)."""
    kept = json.loads(cache.read_text()) if cache and cache.is_file() else {}
    if key not in kept:
        if estimate is None:
            return None
        print(f"measuring {key}", file=sys.stderr, flush=True)
        kept[key] = dataclasses.astuple(estimate())
        if cache:
            write_json_atomic(cache, kept)
    return Memory(*kept[key])


def table(cache: Path | None, measure: bool = True) -> str:
    """Return the table of all published rows as Markdown; one line where rows differ in the split only.

    Without ``measure`` what ``cache`` does not have stays a dash.
    """
    lines: dict[tuple, tuple[list[str], list[str]]] = {}
    estimates: dict[str, Memory | None] = {}
    for name in published():
        config = compose(name)
        dataset, split, method = name.split("/")
        total, number = batch(config), gpus(config)
        shape = (dataset, method, config.augment.crop, tuple(total), number, config.network.encoder)
        if shape in lines:
            lines[shape][0].append(split)
            continue
        figures = []
        for variant in IN_TABLE:
            key = f"{dataset} {method} {config.network.encoder} {variant}"
            if key not in estimates:
                estimates[key] = kept_estimate(
                    cache, key, partial(estimated, name, VARIANTS[variant]) if measure else None
                )
            step, area = estimates[key], extent(config, config.augment.crop)
            figures.append(f"{step.gib(area, total[0] / number):.1f}" if step else "-")
        lines[shape] = [split], figures
    head = ["row", "crop", "encoder", "images of a step", "authors' GPUs", "images per process", *IN_TABLE]
    text = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for (dataset, method, crop, total, number, encoder), (splits, figures) in lines.items():
        row = f"{dataset}, {method} ({', '.join(splits)})"
        each = " + ".join(f"{size / number:g}" for size in total)
        cells = [row, crop, encoder, " + ".join(map(str, total)), number, each, *figures]
        text.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(text)


def published() -> list[str]:
    """Return the experiments on VOC and Cityscapes whose authors state their hardware."""
    names = [name for name in known_experiments() if name.startswith(("voc/", "cityscapes/"))]
    return [name for name in names if compose(name).reference.hardware]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.fits", description=__doc__.splitlines()[0])
    parser.add_argument("experiment", nargs="?", help=EXPERIMENT)
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings, e.g. augment.crop=321")
    parser.add_argument("--memory", type=positive, default=24, metavar="GIB", help="of one device (default: 24)")
    parser.add_argument("--table", action="store_true", help="all published rows, as Markdown")
    parser.add_argument(
        "--cache", type=user_path, metavar="FILE", help="with --table: keep what is measured, and go on after a break"
    )
    parser.add_argument(
        "--kept", action="store_true", help="with --table: measure nothing; a dash where the cache has nothing"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
