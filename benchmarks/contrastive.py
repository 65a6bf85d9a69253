"""``python -m benchmarks.contrastive``: U2PL's contrastive term against its plain transcription, forward and backward.

VOC shape: 4 + 4 images, 21 classes, features 256 x 129 x 129, full queues (50,000 + 20 x 30,000 rows).
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time

from common.command_line import run_command


def main(arguments: list[str] | None = None) -> None:
    """Run both forms in turn and save the ratio."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.contrastive",
        description="Time U2PL's contrastive term against its plain transcription.",
    )
    options.add_argument("--runs", type=int, default=5, help="default: 5")
    options.add_argument("--threads", type=int, default=2, help="default: 2")
    parsed = options.parse_intermixed_args(arguments)
    import torch

    from benchmarks.machine import save

    torch.set_num_threads(parsed.threads)
    fast, plain = make_cases()
    fast(), plain()
    times = {"fast": [], "plain": []}
    for _ in range(parsed.runs):
        for name, run in (("plain", plain), ("fast", fast)):
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["plain"] / medians["fast"]
    print(f"plain {medians['plain']:.2f} s, fast {medians['fast']:.2f} s: {ratio:.1f} times as fast")
    figures = {
        "runs": parsed.runs,
        "threads": parsed.threads,
        "median_seconds": medians,
        "plain_over_fast": round(ratio, 2),
    }
    save("contrastive", "python -m benchmarks.contrastive", figures)


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
