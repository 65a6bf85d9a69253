"""``python -m mindspore_impl.train EXPERIMENT [a.b=c ...]``: train in MindSpore; the PyTorch file mirrors this one."""

from __future__ import annotations

import os
from pathlib import Path

from common.checkpoints.checkpoint import Checkpoint
from common.config.schema import ExperimentConfig
from common.machine import keep_freed_memory
from common.methods.interface import Method
from common.runtimes import FRAMEWORKS
from common.training.command import parser, train
from common.training.launched import run_process
from common.training.trainer import Framework

FIRST_STEP = (
    "first step: MindSpore compiles networks and losses, up to a minute each time a new part of the method begins"
)


def join(device: str) -> tuple[int, int]:
    """Meet the other processes; see :func:`mindspore_impl.processes.start`."""
    from mindspore_impl.processes import start

    return start(device)


def leave() -> None:
    """Part from the other processes."""
    from mindspore_impl.processes import stop

    stop()


def make_method(config: ExperimentConfig) -> tuple[Method, list[str]]:
    """Return the experiment's method on its device and notes on how its networks were started."""
    from mindspore_impl.methods import method_class
    from mindspore_impl.session import Session

    keep_freed_memory()
    session = Session(config)
    return method_class(config.method.name)(config, session), session.notes


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint file."""
    from mindspore_impl.checkpoint import save_checkpoint

    save_checkpoint(path, checkpoint)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parsed = parser("mindspore").parse_intermixed_args(arguments)
    train(
        Framework(
            runtime=FRAMEWORKS["mindspore"], join=join, make_method=make_method, save=save, first_step=FIRST_STEP
        ),
        parsed,
    )


if __name__ == "__main__":
    raise SystemExit(run_process(main, int(os.environ.get("RANK_ID", "0")), leave))
