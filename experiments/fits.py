"""``python -m experiments.fits EXPERIMENT [--memory 24]``: memory of a training step, and what makes it fit a device.

A step of two images of either list runs at two small sizes on the CPU (``experiments.step_memory``). At each moment of a step, what
grows between the sizes grows with the images' pixels and the rest stays; the moment that needs most at the published size counts.
``--table`` does so for every published row and puts the table into ``docs/scale.md``. Estimates are of what PyTorch allocates; a
device's own libraries take part of it for themselves, for which 1 GiB is set aside.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.command_line import EXPERIMENT, positive, run_command, user_path
from common.config.schema import ExperimentConfig
from common.errors import CheckFailed, UserError
from common.experiment import compose, known_experiments
from common.networks.plan import map_sizes
from experiments.page_part import SCALE, put
from experiments.step_memory import Held, measure, small

if TYPE_CHECKING:
    from benchmarks.machine import Kept

GIB = 2**30
RESERVED = 1.0
"""GiB of a device that its context and its libraries' workspaces take; not measured."""
SMALL, LARGER = (65, 97), (97, 129)
"""Sides of the images of the measured steps in float32 and in other formats; of an experiment with even crops one pixel smaller.

In bfloat16 what U2PL's step on a ResNet-101 holds does not yet grow with the pixels below 97.
"""
VARIANTS = {
    "float32": (),
    "bf16": ("trainer.precision=bf16",),
    "float32, recompute": ("trainer.recompute=true",),
    "bf16, recompute": ("trainer.precision=bf16", "trainer.recompute=true"),
}
"""Settings that change the memory of a step without another batch."""
IN_TABLE = ("float32", "bf16")


Lines = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Memory:
    """Bytes of a step, the largest of ``lines`` (fixed, each): ``fixed`` + ``each`` per unit of :func:`extent` and labelled image."""

    lines: Lines

    def gib(self, extent: float, images: float) -> float:
        """Return GiB of a step with ``images`` labelled images of an ``extent``, and what unlabelled ones come with them."""
        return max(fixed + each * extent * images for fixed, each in self.lines) / GIB


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_intermixed_args(arguments)
    if options.table:
        from benchmarks.machine import Kept

        text = table(Kept(options.cache, "python -m experiments.fits --table --cache FILE"), not options.kept)
        print(text)
        if options.page:
            put(SCALE, "memory", text)
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


def estimated(experiment: str, overrides: Sequence[str], sizes: Sequence[int] | None = None) -> Memory:
    """Measure two small steps, and return what they say of larger ones."""
    config = compose(experiment, overrides)
    total, sizes = batch(config), sizes or (SMALL if config.trainer.precision == "float32" else LARGER)
    images = [2, *(-(-2 * count // total[0]) for count in total[1:])]
    sizes = [size - (config.augment.crop % 2 == 0) for size in sizes]
    held = measure([small(experiment, overrides, size, images) for size in sizes], images)
    return Memory(lines([extent(config, size) * images[0] for size in sizes], held))


def lines(areas: Sequence[float], held: Sequence[Held]) -> Lines:
    """Return the lines (fixed, each) through what two steps with ``areas`` hold at the same moments, those that are largest somewhere.

    Where one step allocates more often (what losses pick depends on values), a moment is the time from one layer to the next, and
    the most that is held in it counts.
    """
    smaller, larger = (step.bytes for step in held)
    if len(smaller) != len(larger):
        smaller, larger = (_by_layer(step) for step in held)
    if len(smaller) != len(larger):
        raise CheckFailed(f"two steps have {len(smaller)} and {len(larger)} layers: they cannot be compared")
    each = (larger - smaller) / (areas[1] - areas[0])
    fixed = larger - each * areas[1]
    sizes = areas[0] * np.geomspace(1, 2**13, 64)
    highest = {int((fixed + each * size).argmax()) for size in sizes}
    return tuple(sorted((round(float(fixed[moment])), round(float(each[moment]), 3)) for moment in highest))


def _by_layer(step: Held) -> np.ndarray:
    """Return the most bytes that are held from one layer to the next."""
    return np.array([part.max() if len(part) else 0 for part in np.split(step.bytes, step.layers)])


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
    match = re.match(r"(\d+)\s*(?:x|GPU)", config.reference.hardware)
    return int(match[1]) if match else 1


def published_estimate(kept: Kept, name: str, variant: str, measure: bool) -> Memory | None:
    """Return what ``kept`` has for a published row in a variant; what is not there is measured, or None."""
    dataset, _, method = name.split("/")
    key = f"{dataset} {method} {composed(name).network.encoder} {variant}"
    pairs = kept.figure(key, (lambda: estimated(name, VARIANTS[variant]).lines) if measure else None)
    return Memory(tuple(map(tuple, pairs))) if pairs else None


def table(kept: Kept, measure: bool = True) -> str:
    """Return the table of all published rows as Markdown; one line where rows differ in the split only.

    Without ``measure`` what ``kept`` does not have is a dash.
    """
    rows: dict[tuple, list[str]] = {}
    for name in published():
        config, (dataset, split, method) = composed(name), name.split("/")
        total = tuple(batch(config))
        shape = (
            dataset,
            method,
            config.augment.crop,
            config.network.encoder,
            total,
            gpus(config),
            config.trainer.groups,
        )
        rows.setdefault(shape, []).append(split)
    head = ["row", "crop", "encoder", "images of a step", "authors' GPUs", "groups", "images per process", *IN_TABLE]
    text = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for (dataset, method, crop, encoder, total, number, groups), splits in rows.items():
        name = f"{dataset}/{splits[0]}/{method}"
        area, figures = extent(composed(name), crop), []
        for variant in IN_TABLE:
            step = published_estimate(kept, name, variant, measure)
            figures.append(f"{step.gib(area, total[0] / number):.1f}" if step else "-")
        each = " + ".join(f"{size / number:g}" for size in total)
        row = f"{dataset}, {method} ({', '.join(splits)})"
        cells = [row, crop, encoder, " + ".join(map(str, total)), number, groups, each, *figures]
        text.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(text)


@functools.cache
def composed(name: str) -> ExperimentConfig:
    """Return the experiment as published."""
    return compose(name)


def published() -> list[str]:
    """Return the experiments on VOC and Cityscapes whose authors state their hardware."""
    names = [name for name in known_experiments() if name.startswith(("voc/", "cityscapes/"))]
    return [name for name in names if composed(name).reference.hardware]


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
    parser.add_argument("--page", action="store_true", help="with --table: put it into docs/scale.md")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
