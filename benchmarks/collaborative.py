"""``python -m benchmarks.collaborative``: CPCL's targets and step against their plain transcription, time and memory.

Targets at VOC shape: 8 images of 512 x 512, 21 classes. Memory: the peak of one whole step of two ResNet-50 in a process of
its own, each in the plain order (one backward pass over all losses) and in ours (one loss at a time).
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

from common.command_line import run_command
from common.paths import PROJECT

ORDERS = ("plain", "ours")


def main(arguments: list[str] | None = None) -> None:
    """Run both forms in turn and save the ratios."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.collaborative", description=__doc__.partition(":")[2])
    options.add_argument("--runs", type=int, default=5, help="of the targets (default: 5)")
    options.add_argument("--threads", type=int, default=1, help="default: 1")
    options.add_argument("--size", type=int, default=193, help="side of the step's images (default: 193)")
    options.add_argument("--batch", type=int, default=2, help="images of each kind in the step (default: 2)")
    options.add_argument("--order", choices=ORDERS, help=argparse.SUPPRESS)
    parsed = options.parse_intermixed_args(arguments)
    import torch

    from benchmarks.machine import save

    torch.set_num_threads(parsed.threads)
    if parsed.order:
        print(step_memory(parsed.order, parsed.size, parsed.batch))
        return
    peaks = {order: child(order, parsed) for order in ORDERS}
    figures = {"runs": parsed.runs, "threads": parsed.threads, **target_times(parsed.runs)}
    step = {order: peak - before for order, (before, peak) in peaks.items()}
    figures |= {
        "step": {"network": "two ResNet-50", "batch": parsed.batch, "size": parsed.size},
        "peak_mib": {order: round(peak) for order, (_, peak) in peaks.items()},
        "peak_of_the_step_mib": {order: round(value) for order, value in step.items()},
        "ours_over_plain_memory": round(step["ours"] / step["plain"], 3),
        "ours_over_plain_memory_whole_process": round(peaks["ours"][1] / peaks["plain"][1], 3),
    }
    for name, value in figures.items():
        print(f"{name}: {value}")
    save("collaborative", "python -m benchmarks.collaborative", figures)


def child(order: str, parsed: argparse.Namespace) -> tuple[float, float]:
    """Return memory in MiB before the step and at its peak, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.collaborative", "--order", order, "--size", str(parsed.size)]
    command += ["--batch", str(parsed.batch), "--threads", str(parsed.threads)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    before, peak = map(float, done.stdout.split())
    return before, peak


def step_memory(order: str, size: int, batch: int) -> str:
    """Run one step and return the memory before it and at its peak, in MiB."""
    import numpy as np

    from common.experiment import compose
    from common.methods.cpcl.collaborative import StepDraws
    from common.methods.interface import Clock
    from tests.oracles.collaborative import plain_step
    from torch_impl.methods.cpcl.cpcl import CPCL
    from torch_impl.session import Session

    config = compose("voc/1323/cpcl", ["network.backbone_weights=null", "trainer.device=cpu"])
    method, rng = CPCL(config, Session(config)), np.random.default_rng(0)
    parts = {
        name: {"image": rng.standard_normal((batch, 3, size, size)).astype(np.float32), "ids": []}
        for name in ("labelled", "unlabelled", "unlabelled_other")
    }
    parts["labelled"]["label"] = rng.integers(0, 21, (batch, size, size)).astype(np.uint8)
    clock = Clock(epoch=0, step=0, iteration=0, epochs=1, iterations_per_epoch=1)
    before = peak_mib()
    if order == "plain":
        plain_step(method, parts, clock, StepDraws(0, clock))
    else:
        method.losses(parts, clock, StepDraws(0, clock))
    return f"{before} {peak_mib()}"


def peak_mib() -> float:
    """Return the most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def target_times(runs: int) -> dict[str, object]:
    """Time the targets for given labels and confidences, and together with these from the networks' logits."""
    import torch

    from tests.oracles.collaborative import plain_prediction, plain_targets
    from torch_impl.methods.cpcl.collaborative import mixed_prediction, targets

    torch.manual_seed(0)
    classes, size = 21, (512, 512)
    coarse = 4 * torch.randn(2, 8, classes, 16, 16).repeat_interleave(32, 3).repeat_interleave(32, 4)
    pairs = [tuple(part + torch.randn(8, classes, *size) for part in coarse) for _ in range(2)]
    masks = (torch.rand(8, 8, 8) > 0.7).repeat_interleave(64, 1).repeat_interleave(64, 2)
    ours = [mixed_prediction(*pair, masks, size) for pair in pairs]
    plain = [plain_prediction(*pair, masks) for pair in pairs]
    forms = {
        "targets": (lambda: plain_targets(*zip(*plain), classes), lambda: targets(*ours, classes)),
        "logits_to_targets": (
            lambda: plain_targets(*zip(*(plain_prediction(*pair, masks) for pair in pairs)), classes),
            lambda: targets(*(mixed_prediction(*pair, masks, size) for pair in pairs), classes),
        ),
    }
    figures: dict[str, object] = {"shape": [8, classes, *size]}
    for name, functions in forms.items():
        times: dict[str, list[float]] = {order: [] for order in ORDERS}
        for turn in range(runs + 1):  # the first one warms up
            for order, run in zip(ORDERS, functions):
                start = time.process_time()  # another program's load does not count
                run()
                if turn:
                    times[order].append(time.process_time() - start)
        medians = {order: statistics.median(values) for order, values in times.items()}
        figures[f"{name}_cpu_seconds"] = medians
        figures[f"{name}_plain_over_ours"] = round(medians["plain"] / medians["ours"], 2)
    return figures


if __name__ == "__main__":
    raise SystemExit(run_command(main))
