"""``python -m benchmarks.usrn_step``: peak memory and time of a USRN training step against its plain form, one run.

ResNet-50 with 190 subclasses on crops of 320 x 320, PyTorch on the CPU. The plain form keeps the graphs of all three
passes and holds subclass logits at the crop's size.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.harness import options, run_cases
from common.command_line import positive, run_command
from common.errors import CheckFailed

ALLOWED = 0.7
"""Largest share of the plain form's memory: what a step takes at its peak beyond what was there before it."""
NO_DROPOUT = ("network.aspp_dropout=0.0", "network.head_dropout=[0.0, 0.0]")


def main(arguments: list[str] | None = None) -> None:
    """Run both forms and save the ratios; the check fails if ours needs too much memory."""
    parser = options("usrn_step", "Memory and time of a USRN step against its plain form.", turns=3)
    parser.add_argument("--batch", type=positive, default=2, help="labelled and unlabelled images each (default: 2)")
    parser.add_argument("--crop", type=positive, default=320, help="default: 320")
    figures = run_cases("usrn_step", {"step": {"ours": ours, "plain": plain}}, parser, arguments)
    if figures:
        memory = figures["step"]["over_first"]["plain"]["memory"]
        if 1 / memory > ALLOWED:
            raise CheckFailed(f"a step takes {1 / memory:.2f} of the plain form's memory; {ALLOWED} is allowed")


def ours(parsed: argparse.Namespace) -> Callable[[], Any]:
    """Return a training step of this project."""
    from common.methods.interface import Clock

    method, data = _method_and_batch(parsed.batch, parsed.crop)
    clock = Clock(epoch=0, step=0, iteration=0, epochs=1, iterations_per_epoch=2)
    return lambda: method.step(data, clock)


def plain(parsed: argparse.Namespace) -> Callable[[], Any]:
    """Return a training step that keeps everything for one backward pass."""
    import torch

    from common.methods.interface import Clock
    from common.methods.usrn.subclasses import parent_table
    from tests.oracles.usrn import plain_losses

    method, data = _method_and_batch(parsed.batch, parsed.crop)
    tensors = {
        part: {name: torch.from_numpy(value) for name, value in values.items() if name != "ids"}
        for part, values in data.items()
    }
    parents, clock = (
        torch.from_numpy(parent_table(method.settings.subclass_counts)),
        Clock(epoch=0, step=0, iteration=0, epochs=1, iterations_per_epoch=2),
    )

    def step():
        network = method.student.train()
        method.optimizer.differentiate(lambda: plain_losses(network, tensors, parents, method.settings))
        method.optimizer.step(clock)

    return step


def _method_and_batch(batch: int, crop: int):
    import numpy as np

    from common.experiment import compose
    from torch_impl.methods.usrn.usrn import USRN
    from torch_impl.session import Session

    config = compose(
        "voc/662/usrn", ["network.backbone_weights=null", *NO_DROPOUT, "trainer.device=cpu", "method.threshold=0.02"]
    )
    rng = np.random.default_rng(0)

    def images():
        return rng.standard_normal((batch, 3, crop, crop)).astype(np.float32)

    labels = rng.integers(0, 21, (batch, crop, crop)).astype(np.uint8)
    subclass = rng.integers(0, 190, (batch, crop, crop)).astype(np.uint8)
    labelled = {"ids": ["a"] * batch, "image": images(), "label": labels, "subclass": subclass}
    data = {"labelled": labelled, "unlabelled": {"ids": ["b"] * batch, "weak": images(), "strong": images()}}
    return USRN(config, Session(config)), data


if __name__ == "__main__":
    raise SystemExit(run_command(main))
