"""``python -m experiments.step_memory EXPERIMENT --crop 65 --images 2 2``: memory of a PyTorch training step, measured on a CPU.

A step on noise runs with each crop, in order, with the experiment's network, method and settings, after one that makes momenta;
what PyTorch allocates and frees is added up, weights, gradients, momenta, teacher and banks included, and the batch itself. The
largest sum in each step is printed as JSON, a line for each crop. It does not depend on the machine. What a GPU's libraries take
for themselves is not in it. ``--whole``: one step alone, and the memory of the whole process, which ends beyond ``--limit`` GiB.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from common.command_line import experiment_arguments, positive, run_command
from common.config.schema import ExperimentConfig
from common.experiment import compose
from common.loading.samples import SampleMaker
from common.machine import peak_memory
from common.methods.interface import Batch, Clock

os.environ.setdefault(
    "KINETO_LOG_LEVEL", "99"
)  # PyTorch's profiler would say on standard error when it starts and stops

SUBCLASSES_PER_CLASS = 6
"""About the published mean, for splits whose subclasses are counted from the data."""
STEPS_PER_EPOCH = 100
STEP = "measured step "
"""What a step is called in the profile, before its number."""
LAYERS = ("aten::convolution", "aten::convolution_backward", "aten::batch_norm", "aten::native_batch_norm_backward")
"""Operators of the profile that come in every step equally often, whatever the losses pick and in how many strips they work."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_intermixed_args(arguments)
    configs = [small(options.experiment, options.overrides, crop, options.images) for crop in options.crop]
    if options.whole:
        figures = (whole(config, options.images, options.limit) for config in configs)
    else:
        figures = ({"bytes": int(held.bytes.max())} for held in measure(configs, options.images))
    for result in figures:
        print(json.dumps(result), flush=True)


def small(
    experiment: str, overrides: Sequence[str], crop: int, images: Sequence[int], processes: int = 1
) -> ExperimentConfig:
    """Return an experiment with crops of ``crop`` pixels and ``images`` of each process (labelled, and unlabelled if it has any)."""
    names = ("loader.batch_labelled", "loader.batch_unlabelled")
    sizes = [f"{name}={count * processes}" for name, count in zip(names, images)]
    fixed = [f"augment.crop={crop}", *sizes, "trainer.device=cpu", f"trainer.groups={processes}", "loader.workers=0"]
    if compose(experiment, overrides).network.encoder != "tiny":
        fixed.append("network.backbone_weights=null")
    config = compose(experiment, [*overrides, *fixed])
    if getattr(config.method, "subclass_counts", None) == ():
        counts = [SUBCLASSES_PER_CLASS] * len(config.dataset.classes)
        more = [f"method.subclass_counts={counts}", f"network.subclasses={sum(counts)}"]
        config = compose(experiment, [*overrides, *fixed, *more])
    return config


def noise(config: ExperimentConfig, images: Sequence[int]) -> Batch:
    """Return a batch with the names, shapes and types of the real ones."""
    rng, counts, batch = np.random.default_rng(0), dict(zip(("labelled", "unlabelled"), images)), {}
    maker = SampleMaker(dataset=None, streams={stream.name: stream for stream in config.streams()}, seed=0)
    for stream in maker.streams.values():
        count = counts[stream.source] // stream.one_of
        part: dict[str, Any] = {"ids": ["drawn"] * count}
        for name, array in maker.blank(stream.name).items():
            shape = (count, *array.shape)
            if array.dtype == np.float32:
                part[name] = rng.standard_normal(shape, np.float32)
            elif name in stream.labels:
                coarse = rng.integers(0, len(config.dataset.classes), (count, 8, 8)).astype(np.uint8)
                rows, columns = (np.arange(side) * 8 // side for side in array.shape)
                part[name] = coarse[:, rows][:, :, columns]
            else:
                part[name] = np.zeros(shape, array.dtype)
        batch[stream.name] = part
    return batch


class DrawnImages:
    """Stands for the images that a method asks for in a step (:class:`common.loading.on_demand.ImagesOnDemand`)."""

    ids = ("drawn",)
    side = 0

    def __init__(self, _config: ExperimentConfig, _name: str) -> None:
        pass

    def positions(self, ids: Sequence[str]) -> np.ndarray:
        """Return zeros, one for each of ``ids``."""
        return np.zeros(len(ids), np.int64)

    def load(self, positions: np.ndarray, _clock: Clock, _first_place: int = 0) -> np.ndarray:
        """Return black images float32 ``[n,3,S,S]``."""
        return np.zeros((len(positions), 3, self.side, self.side), np.float32)


class Held(NamedTuple):
    """``bytes`` held after each allocation and release in a step, int64, and at which of them each layer begins (``LAYERS``)."""

    bytes: np.ndarray
    layers: np.ndarray


def measure(configs: Sequence[ExperimentConfig], images: Sequence[int]) -> list[Held]:
    """Return what is held during a step of the last epoch, for each of ``configs``, which differ in their crops.

    What stays between steps is included: weights, momenta, teacher, banks; and so is the batch.
    """
    from torch.profiler import ProfilerActivity, profile, record_function

    configs = [configs[0], *configs]  # the first step makes momenta
    batches = [noise(config, images) for config in configs]
    gc.collect()  # what is left of another method would count as released here
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        method = made(configs[0])
        for step, (config, batch) in enumerate(zip(configs, batches)):
            with record_function(f"{STEP}{step}"):
                run_step(method, config, batch, step)
    starts, changes, layers = {}, [], []
    for event in profiled.profiler.kineto_results.events():
        name, time_ns = event.name(), event.start_ns()
        if name == "[memory]":
            changes.append((time_ns, event.nbytes()))
        elif name in LAYERS:
            layers.append(time_ns)
        elif name.startswith(STEP):
            starts[int(name.removeprefix(STEP))] = time_ns
    changes.sort()
    times, sums = np.int64([time for time, _ in changes]), np.cumsum([size for _, size in changes])
    cuts = np.searchsorted(times, [starts[step] for step in range(len(configs))]).tolist() + [len(times)]
    places, held = np.searchsorted(times, np.sort(layers)), []
    for batch, start, end in zip(batches[1:], cuts[1:], cuts[2:]):
        arrays = (array for part in batch.values() for name, array in part.items() if name != "ids")
        inside = places[(places >= start) & (places < end)] - start
        held.append(Held(sums[start:end] + sum(array.nbytes for array in arrays), inside))
    return held


def whole(config: ExperimentConfig, images: Sequence[int], limit: float = np.inf) -> dict[str, float]:
    """Run one step without measuring tensors; return the most memory this process ever had, seconds, CPU seconds and the loss.

    Beyond ``limit`` GiB the process ends with one line and exit code 1.
    """
    threading.Thread(target=_guard, args=(limit,), daemon=True).start()
    batch, method = noise(config, images), made(config)
    started, spent = time.perf_counter(), time.process_time()
    losses = run_step(method, config, batch, 0)
    return {
        "bytes": int(peak_memory() * 2**20),
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - spent,
        "loss": losses["loss"],
    }


def _guard(limit: float) -> None:
    """End this process once it holds more than ``limit`` GiB."""
    while peak_memory() <= limit * 2**10:
        time.sleep(0.1)
    print(f"error: the step needs more than the {limit:g} GiB of --limit", file=sys.stderr, flush=True)
    os._exit(1)


def made(config: ExperimentConfig) -> Any:
    """Return the method in PyTorch, prototypes drawn if it has any."""
    from torch_impl.methods import method_class
    from torch_impl.methods.u2pl import u2pl_ael
    from torch_impl.session import Session

    with mock.patch.object(u2pl_ael, "ImagesOnDemand", DrawnImages):
        method = method_class(config.method.name)(config, Session(config))
    if hasattr(method, "set_prototypes"):
        shape = method.student.prototypes.shape
        method.set_prototypes(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    return method


def run_step(method: Any, config: ExperimentConfig, batch: Batch, step: int) -> dict[str, float]:
    """Run one step of the last epoch."""
    DrawnImages.side = config.augment.crop
    epochs = config.trainer.epochs
    iteration = (epochs - 1) * STEPS_PER_EPOCH + step
    clock = Clock(epoch=epochs - 1, step=step, iteration=iteration, epochs=epochs, iterations_per_epoch=STEPS_PER_EPOCH)
    return method.step(batch, clock)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.step_memory", description=__doc__.splitlines()[0])
    experiment_arguments(parser)
    parser.add_argument("--crop", type=positive, nargs="+", required=True, help="sides of the images, one step each")
    parser.add_argument(
        "--images", type=positive, nargs="+", required=True, help="labelled, and unlabelled if there are any"
    )
    parser.add_argument("--whole", action="store_true", help="one step: the process's largest memory, time and loss")
    parser.add_argument("--limit", type=positive, default=np.inf, metavar="GIB", help="with --whole: end beyond it")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
