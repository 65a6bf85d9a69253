"""``python -m benchmarks.training_step``: one training step in MindSpore against PyTorch, on this machine's CPU.

DeepLabv3+ with ResNet-50 (output stride 16, 21 classes) and method suponly by default: batch 2 of 129x129. Each framework has a process of
its own; they step in turn, so that other load on the machine hits both.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time

from common.command_line import run_command
from common.errors import CheckFailed
from common.runtimes import FRAMEWORKS

WARM_UP = 3
NETWORK = ("network.preset=resnet18_os16", "network.encoder=resnet50", "network.stages=4", "network.width=256")


def main(arguments: list[str] | None = None) -> None:
    """Run both frameworks in turn and save the ratio."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.training_step", description="Time a training step in MindSpore against PyTorch."
    )
    options.add_argument("--experiment", default="voc/366/suponly")
    options.add_argument("--runs", type=int, default=10)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--size", type=int, default=129)
    options.add_argument("--batch", type=int, default=2, help="images of each kind")
    options.add_argument("--worker", choices=FRAMEWORKS, help=argparse.SUPPRESS)
    parsed = options.parse_intermixed_args(arguments)
    if parsed.worker:
        serve(parsed)
        return
    from benchmarks.machine import save

    figures = {"experiment": parsed.experiment, "network": list(NETWORK), "size": parsed.size, "batch": parsed.batch}
    figures |= {"runs": parsed.runs, "threads": parsed.threads} | compare(parsed)
    for kind in ("wall", "cpu"):
        seconds = figures[f"median_{kind}_seconds"]
        figures[f"mindspore_over_torch_{kind}"] = round(seconds["mindspore"] / seconds["torch"], 2)
        print(f"{kind}: {figures[f'mindspore_over_torch_{kind}']} times as long", seconds)
    given = sys.argv[1:] if arguments is None else arguments
    save("training_step", " ".join(["python -m benchmarks.training_step", *given]), figures)


def compare(parsed: argparse.Namespace) -> dict:
    """Return the median wall and processor seconds of a step by framework; both do every step once before the next."""
    passed = [f"--{name}={getattr(parsed, name)}" for name in ("experiment", "threads", "size", "batch")]
    command = [sys.executable, "-m", "benchmarks.training_step", *passed]
    workers = {
        name: subprocess.Popen([*command, f"--worker={name}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in FRAMEWORKS
    }
    times = {name: [] for name in FRAMEWORKS}
    try:
        for _ in range(WARM_UP + parsed.runs):
            for name, worker in workers.items():
                print("step", file=worker.stdin, flush=True)
                answer = worker.stdout.readline()
                if not answer:
                    raise CheckFailed(f"the {name} process ended early; its own message is above")
                times[name].append(json.loads(answer))
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    return {
        f"median_{kind}_seconds": {
            name: round(statistics.median(step[kind] for step in steps[WARM_UP:]), 4) for name, steps in times.items()
        }
        for kind in ("wall", "cpu")
    }


def serve(parsed: argparse.Namespace) -> None:
    """Run one step for every line of standard input and answer with its wall and processor seconds."""
    from common.experiment import compose
    from common.methods.interface import Clock

    settings = (f"trainer.threads={parsed.threads}", "trainer.device=cpu", "network.backbone_weights=null")
    config = compose(parsed.experiment, [*NETWORK, *settings])
    method, _ = importlib.import_module(f"{parsed.worker}_impl.train").make_method(config)
    batch = made_up_batch(len(config.dataset.classes), parsed.batch, parsed.size)
    each = 1000
    for iteration, _ in enumerate(sys.stdin):
        clock = Clock(epoch=1, step=iteration, iteration=each + iteration, epochs=4, iterations_per_epoch=each)
        wall, cpu = time.perf_counter(), time.process_time()
        method.step(batch, clock)
        print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}), flush=True)


def made_up_batch(classes: int, batch: int, size: int) -> dict:
    """Return noise images and labels for the streams ``labelled`` and ``unlabelled``."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = [rng.standard_normal((batch, 3, size, size)).astype(np.float32) for _ in range(2)]
    labels = rng.integers(0, classes, (batch, size, size)).astype(np.uint8)
    ids = [str(index) for index in range(batch)]
    return {
        "labelled": {"ids": ids, "image": images[0], "label": labels},
        "unlabelled": {"ids": ids, "image": images[1]},
    }


if __name__ == "__main__":
    raise SystemExit(run_command(main))
