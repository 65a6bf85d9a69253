"""``python -m benchmarks.collaborative``: CPCL's targets and step against their plain transcription, time and memory.

Targets at VOC shape: 8 images of 512 x 512, 21 classes. A whole step of two ResNet-50, in the plain order (one backward pass
over all losses) and in ours (one loss at a time).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.harness import options, run_cases
from common.command_line import positive, run_command
from common.methods.groups import PerGroup

CLASSES, SIZE = 21, (512, 512)


def main(arguments: list[str] | None = None) -> None:
    """Run both forms in turn and save the ratios."""
    cases = {
        "targets": {"ours": our_targets, "plain": plain_targets},
        "logits to targets": {"ours": our_logits_to_targets, "plain": plain_logits_to_targets},
        "step": {"ours": our_step, "plain": plain_step},
    }
    parser = options("collaborative", "Time CPCL's targets and step against their plain transcription.")
    parser.add_argument("--size", type=positive, default=193, help="side of the step's images (default: 193)")
    parser.add_argument("--batch", type=positive, default=2, help="images of each kind in the step (default: 2)")
    run_cases("collaborative", cases, parser, arguments)


def our_step(parsed: argparse.Namespace) -> Callable[[], Any]:
    """Return the losses and gradients of a step, one loss at a time."""
    method, parts, clock, draws = _step_inputs(parsed)
    return lambda: method.losses(parts, clock, PerGroup([draws()]))


def plain_step(parsed: argparse.Namespace) -> Callable[[], Any]:
    """Return the same by one backward pass over all losses."""
    from tests.oracles.collaborative import plain_step as step

    method, parts, clock, draws = _step_inputs(parsed)
    return lambda: step(method, parts, clock, draws())


def _step_inputs(parsed: argparse.Namespace):
    import numpy as np

    from common.experiment import compose
    from common.methods.cpcl.collaborative import StepDraws
    from common.methods.interface import Clock
    from torch_impl.methods.cpcl.cpcl import CPCL
    from torch_impl.session import Session

    config = compose("voc/1323/cpcl", ["network.backbone_weights=null", "trainer.device=cpu"])
    method, rng = CPCL(config, Session(config)), np.random.default_rng(0)
    parts = {
        name: {"image": rng.standard_normal((parsed.batch, 3, parsed.size, parsed.size)).astype(np.float32), "ids": []}
        for name in ("labelled", "unlabelled", "unlabelled_other")
    }
    parts["labelled"]["label"] = rng.integers(0, 21, (parsed.batch, parsed.size, parsed.size)).astype(np.uint8)
    clock = Clock(epoch=0, step=0, iteration=0, epochs=1, iterations_per_epoch=1)
    return method, parts, clock, lambda: StepDraws(0, clock)


def our_targets(parsed: argparse.Namespace) -> Callable[[], Any]:
    """Return the targets for given labels and confidences."""
    from torch_impl.methods.cpcl.collaborative import mixed_prediction, targets

    pairs, masks = _logits()
    predictions = [mixed_prediction(*pair, masks, SIZE) for pair in pairs]
    return lambda: targets(*predictions, CLASSES)


def plain_targets(parsed: argparse.Namespace) -> Callable[[], Any]:
    """Return the same in the plain form."""
    from tests.oracles.collaborative import plain_prediction, plain_targets

    pairs, masks = _logits()
    predictions = [plain_prediction(*pair, masks) for pair in pairs]
    return lambda: plain_targets(*zip(*predictions), CLASSES)


def our_logits_to_targets(parsed: argparse.Namespace) -> Callable[[], Any]:
    """Return the targets from the networks' logits on."""
    from torch_impl.methods.cpcl.collaborative import mixed_prediction, targets

    pairs, masks = _logits()
    return lambda: targets(*(mixed_prediction(*pair, masks, SIZE) for pair in pairs), CLASSES)


def plain_logits_to_targets(parsed: argparse.Namespace) -> Callable[[], Any]:
    """Return the same in the plain form."""
    from tests.oracles.collaborative import plain_prediction, plain_targets

    pairs, masks = _logits()
    return lambda: plain_targets(*zip(*(plain_prediction(*pair, masks) for pair in pairs)), CLASSES)


def _logits():
    """Return both networks' logits of two batches of 8 images, and masks."""
    import torch

    torch.manual_seed(0)
    coarse = 4 * torch.randn(2, 8, CLASSES, 16, 16).repeat_interleave(32, 3).repeat_interleave(32, 4)
    pairs = [tuple(part + torch.randn(8, CLASSES, *SIZE) for part in coarse) for _ in range(2)]
    masks = (torch.rand(8, 8, 8) > 0.7).repeat_interleave(64, 1).repeat_interleave(64, 2)
    return pairs, masks


if __name__ == "__main__":
    raise SystemExit(run_command(main))
