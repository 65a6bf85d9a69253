"""``python -m experiments.scaling [EXPERIMENT ...]``: what a step sends between processes, and an estimate for 8, 64 and 512 GPUs.

Counted, not estimated: floating-point operations of a step (PyTorch's counter) and every sum and gathering over processes with its
bytes, in one step on the CPU at a small size, as one of two processes takes it. Operations grow with the images' pixels; bytes do
not. The rest is arithmetic from ``--sustained``, ``--inside``, ``--link`` and ``--latency``, which are assumptions about hardware: each
process keeps the images of one of the authors' GPUs (weak scaling), nothing is sent while the device computes, and sums and
gatherings go round a ring. ``--page`` puts the table into ``docs/scale.md``.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

from common.command_line import EXPERIMENT, positive, run_command
from common.experiment import compose
from experiments.fits import batch, extent, gpus
from experiments.page_part import SCALE, put
from experiments.step_memory import made, noise, run_step, small

ROWS = ("voc/366/suponly", "voc/366/u2pl", "voc/366/unimatch", "voc/662/cps", "cityscapes/744/u2pl")
PROCESSES = (8, 64, 512)
CROP = 97
COUNT = 2
"""Processes of the step that is counted; what each gives to a gathering does not depend on their number."""


@dataclass(frozen=True)
class Sent:
    """Of one process in one step: calls and bytes of sums over processes, gradients among them, and of what it gives to gatherings."""

    sums: int
    sum_bytes: int
    gradient_bytes: int
    gatherings: int
    gathered_bytes: int


@dataclass(frozen=True)
class Hardware:
    """TFLOP/s that a device sustains, GB/s in and out of each device within a machine of 8 and between machines, microseconds."""

    sustained: float
    inside: float
    link: float
    latency: float

    def seconds(self, sent: Sent, processes: int) -> float:
        """Return the time of all that is sent between so many processes, one after the other.

        A ring passes 2 (N-1)/N of a sum's bytes through each link, and N-1 times what each gives to a gathering; a call takes
        the latency log2(N) times on the way there and, for a sum, back.
        """
        speed = 1e9 * (self.inside if processes <= 8 else self.link)
        rounds = math.log2(processes) if processes > 1 else 0
        waits = (2 * sent.sums + sent.gatherings) * rounds * self.latency * 1e-6
        moved = 2 * (processes - 1) / processes * sent.sum_bytes + (processes - 1) * sent.gathered_bytes
        return waits + moved / speed


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    hardware = Hardware(options.sustained, options.inside, options.link, options.latency)
    text = table(options.experiments or ROWS, hardware)
    print(text)
    if options.page:
        put(SCALE, "weak scaling", text)


def table(experiments: Sequence[str], hardware: Hardware) -> str:
    """Return a Markdown table, a row for each of ``experiments``: what is counted, and step time and efficiency by number of GPUs."""
    head = ["row", "images per process", "TFLOP", "MB of gradients", "other sums", "gatherings"]
    head += [f"{number} GPUs" for number in PROCESSES]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name in experiments:
        config = compose(name)
        each = [size / gpus(config) for size in batch(config)]
        operations, sent = counted(name)
        operations *= extent(config, config.augment.crop) * each[0]
        alone = operations / hardware.sustained / 1e12
        cells = [
            name,
            " + ".join(f"{size:g}" for size in each),
            f"{operations / 1e12:.1f}",
            f"{sent.gradient_bytes / 1e6:.0f}",
        ]
        cells += [
            f"{sent.sums} of {(sent.sum_bytes - sent.gradient_bytes) / 1e6:.2f} MB",
            f"{sent.gatherings} of {sent.gathered_bytes / 1e6:.2f} MB",
        ]
        for number in PROCESSES:
            step = alone + hardware.seconds(sent, number)
            cells.append(f"{1000 * step:.0f} ms, {100 * alone / step:.0f} %")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def counted(experiment: str, overrides: Sequence[str] = (), crop: int = CROP) -> tuple[float, Sent]:
    """Return operations of a step per unit of extent and labelled image, and what a process sends in it; networks as published."""
    from torch.utils.flop_counter import FlopCounterMode

    total = batch(compose(experiment, overrides))
    crop -= compose(experiment, overrides).augment.crop % 2 == 0
    images = [2, *(-(-2 * count // total[0]) for count in total[1:])]
    config = small(experiment, overrides, crop, images, COUNT)
    with _one_of_two() as sent:
        method, data = made(config), noise(config, images)
        sent.clear()
        with FlopCounterMode(display=False) as operations:
            run_step(method, config, data, 0)
    return operations.get_total_flops() / (extent(config, crop) * images[0]), Sent(
        sums=sent["sums"], sum_bytes=sent["bytes"], gradient_bytes=sent["gradient bytes"],
        gatherings=sent["gatherings"], gathered_bytes=sent["gathered bytes"],
    )  # fmt: skip


@contextmanager
def _one_of_two() -> Iterator[Counter]:
    """Let this process take itself for the first of two alike, whose sums are twice and gatherings twice its values; count them."""
    import torch
    import torch.distributed as dist

    from torch_impl.processes import Processes

    sent, sum_gradients = Counter(), Processes.sum_gradients

    def all_reduce(tensor: torch.Tensor) -> None:
        sent["sums"] += 1
        sent["bytes"] += tensor.numel() * tensor.element_size()
        if (
            tensor.dtype == torch.int64 and len(tensor) == COUNT
        ):  # how many rows each process gathers, each in its place
            tensor[1:] = tensor[:1]
        else:
            tensor.mul_(COUNT)

    def all_gather(outputs: Sequence[torch.Tensor], tensor: torch.Tensor) -> None:
        sent["gatherings"] += 1
        sent["gathered bytes"] += tensor.numel() * tensor.element_size()
        for output in outputs:
            output.copy_(tensor)

    def of_gradients(self: Processes, gradients: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        before = sent["bytes"]
        gradients = sum_gradients(self, gradients)
        sent["gradient bytes"] += sent["bytes"] - before
        return gradients

    alike = {"all_reduce": all_reduce, "all_gather": all_gather, "get_world_size": lambda: COUNT}
    here = {"is_initialized": lambda: True, "get_rank": lambda: 0}
    with mock.patch.multiple(dist, **alike, **here), mock.patch.object(Processes, "sum_gradients", of_gradients):
        yield sent


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="*", help=EXPERIMENT)
    parser.add_argument("--sustained", type=positive, default=60, metavar="TFLOPS", help="of one GPU (default: 60)")
    parser.add_argument("--inside", type=positive, default=200, metavar="GB/S", help="within a machine (default: 200)")
    parser.add_argument("--link", type=positive, default=25, metavar="GB/S", help="between machines (default: 25)")
    parser.add_argument("--latency", type=positive, default=10, metavar="US", help="of one passage (default: 10)")
    parser.add_argument("--page", action="store_true", help="also put the table into docs/scale.md")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
