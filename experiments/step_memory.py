"""``python -m experiments.step_memory EXPERIMENT --crop 65 --images 2 2``: memory of a PyTorch training step, measured on a CPU.

Two steps run on noise, with the experiment's network, method and settings; what PyTorch allocates and frees is added up, weights,
gradients, momenta, teacher and banks included, and the batch itself. The largest sum is printed as JSON, a line for each crop. It does not depend on
the machine. What a GPU's libraries take for themselves is not in it. ``--whole``: one step, and the memory of the whole process.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.command_line import experiment_arguments, positive, run_command
from common.config.schema import ExperimentConfig
from common.experiment import compose
from common.loading.samples import SampleMaker
from common.methods.interface import Batch, Clock

SUBCLASSES_PER_CLASS = 6
"""About the published mean, for splits whose subclasses are counted from the data."""
STEPS_PER_EPOCH = 100


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_intermixed_args(arguments)
    for crop in options.crop:
        config = small(options.experiment, options.overrides, crop, options.images)
        found = whole(config, options.images) if options.whole else {"bytes": measure(config, options.images)}
        print(json.dumps(found), flush=True)
        gc.collect()


def small(experiment: str, overrides: Sequence[str], crop: int, images: Sequence[int]) -> ExperimentConfig:
    """Return an experiment with crops of ``crop`` pixels and batches of ``images`` (labelled, and unlabelled if it has any)."""
    names = ("loader.batch_labelled", "loader.batch_unlabelled")
    sizes = [f"{name}={count}" for name, count in zip(names, images)]
    fixed = [f"augment.crop={crop}", *sizes, "trainer.device=cpu", "trainer.groups=1", "loader.workers=0"]
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

    def __init__(self, config: ExperimentConfig, _name: str) -> None:
        self._side = config.augment.crop

    def positions(self, ids: Sequence[str]) -> np.ndarray:
        """Return zeros, one for each of ``ids``."""
        return np.zeros(len(ids), np.int64)

    def load(self, positions: np.ndarray, _clock: Clock, _first_place: int = 0) -> np.ndarray:
        """Return black images float32 ``[n,3,S,S]``."""
        return np.zeros((len(positions), 3, self._side, self._side), np.float32)


def measure(config: ExperimentConfig, images: Sequence[int]) -> int:
    """Return the bytes that a step of the last epoch holds at once at most, everything that stays between steps included."""
    from torch.profiler import ProfilerActivity, profile

    batch = noise(config, images)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        method = made(config)
        for step in range(2):
            run_step(method, config, batch, step)
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    arrays = (array for part in batch.values() for name, array in part.items() if name != "ids")
    return int(np.cumsum(changes).max()) + sum(array.nbytes for array in arrays)


def whole(config: ExperimentConfig, images: Sequence[int]) -> dict[str, float]:
    """Run one step without measuring tensors; return the most memory this process ever had, seconds, CPU seconds and the loss."""
    batch, method = noise(config, images), made(config)
    started, spent = time.perf_counter(), time.process_time()
    losses = run_step(method, config, batch, 0)
    return {
        "bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - spent,
        "loss": losses["loss"],
    }


def made(config: ExperimentConfig) -> Any:
    """Return the method in PyTorch, prototypes drawn if it has any."""
    from torch_impl.methods import method_class
    from torch_impl.methods.u2pl import u2pl_ael
    from torch_impl.session import Session

    u2pl_ael.ImagesOnDemand = DrawnImages
    method = method_class(config.method.name)(config, Session(config))
    if hasattr(method, "set_prototypes"):
        shape = method.student.prototypes.shape
        method.set_prototypes(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    return method


def run_step(method: Any, config: ExperimentConfig, batch: Batch, step: int) -> dict[str, float]:
    """Run one step of the last epoch."""
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
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
