"""``python -m benchmarks.contrastive``: U2PL's contrastive term against its plain transcription, forward and backward.

VOC shape: 4 + 4 images, 21 classes, features 256 x 129 x 129, full queues (50,000 + 20 x 30,000 rows).
"""

from __future__ import annotations

import dataclasses

from benchmarks.harness import options, run_cases
from common.command_line import run_command


def main(arguments: list[str] | None = None) -> None:
    """Run both forms in turn and save the ratios."""
    forms = {"ours": lambda _: make_cases()[0], "plain": lambda _: make_cases()[1]}
    parser = options("contrastive", "Time U2PL's contrastive term against its plain transcription.")
    run_cases("contrastive", {"contrastive term": forms}, parser, arguments)


def make_cases():
    """Return two functions that run one forward and backward pass on the same inputs, draws and full queues."""
    import numpy as np
    import torch

    from common.methods.interface import Clock
    from common.methods.presets import resolved
    from common.methods.u2pl.u2pl import StepDraws, U2PLSettings
    from tests.oracles.contrastive import plain_contrastive_loss
    from torch_impl.methods.u2pl.contrastive import contrastive_loss, label_maps
    from torch_impl.methods.u2pl.memory_bank import MemoryBank

    torch.manual_seed(0)
    settings = resolved(U2PLSettings())
    contrastive = dataclasses.replace(settings.contrastive, label_encoding="onehot")
    classes, width, labelled, size = 21, 256, 4, 129
    rep = torch.randn(8, width, size, size, requires_grad=True)
    rep_teacher = torch.randn(8, width, size, size)
    probabilities = (
        (3 * torch.randn(8, classes, 9, 9)).repeat_interleave(15, 2).repeat_interleave(15, 3)[:, :, :size, :size]
    )
    probabilities = (probabilities + torch.randn(8, classes, size, size)).softmax(1)
    labels = probabilities.argmax(1).to(torch.uint8)
    labels[labelled:] = torch.from_numpy(np.random.default_rng(0).permutation(classes))[labels[labelled:].long()].to(
        torch.uint8
    )
    maps = label_maps(labels, classes, "onehot")
    low = torch.rand(8, size, size) < 0.5
    high = torch.rand(8, size, size) < 0.5
    sizes = settings.queue_sizes(classes)
    start = [torch.randn(capacity, width) for capacity in sizes]
    bank = MemoryBank(sizes, width)
    for index, rows in enumerate(start):
        bank.append(index, rows)
    queues = list(start)
    clock = Clock(epoch=1, step=0, iteration=1, epochs=2, iterations_per_epoch=1)

    def fast():
        rep.grad = None
        draws = StepDraws(settings, 0, clock)
        contrastive_loss(
            rep, rep_teacher, probabilities, maps, low, high, labelled, bank, contrastive, draws
        ).loss.backward()
        return rep.grad

    def plain():
        rep.grad = None
        draws = StepDraws(settings, 0, clock)
        plain_contrastive_loss(
            rep, rep_teacher, probabilities, maps, low, high, labelled, queues, sizes, contrastive, draws
        ).backward()
        return rep.grad

    return fast, plain


if __name__ == "__main__":
    raise SystemExit(run_command(main))
