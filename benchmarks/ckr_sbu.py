"""``python -m benchmarks.ckr_sbu``: UCCL's CKR and SBU against their plain transcription, forward and backward.

VOC shape of one view: 2 images, 21 classes, features 256 x 81 x 81, a tenth of them padding.
"""

from __future__ import annotations

import argparse
import statistics
import time

from common.command_line import run_command

THRESHOLD = 0.95


def main(arguments: list[str] | None = None) -> None:
    """Run both forms in turn and save time and saved tensors."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.ckr_sbu", description="Time UCCL's CKR and SBU against their plain transcription."
    )
    options.add_argument("--runs", type=int, default=5, help="default: 5")
    options.add_argument("--threads", type=int, default=1, help="default: 1")
    parsed = options.parse_intermixed_args(arguments)
    import torch

    from benchmarks.machine import save

    torch.set_num_threads(parsed.threads)
    cases = dict(zip(("fast", "plain"), make_cases(2, 21, 256, 81)[:2]))
    times = {name: [] for name in cases}
    saved = {name: saved_bytes(loss) for name, loss in cases.items()}
    for _ in range(parsed.runs):
        for name, loss in cases.items():
            start = time.perf_counter()
            loss().backward()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    speed, memory = medians["plain"] / medians["fast"], saved["fast"] / saved["plain"]
    print(f"{speed:.1f} times as fast, {memory:.2f} of the saved tensors ({saved['fast'] / 1e6:.0f} MB)")
    figures = {
        "runs": parsed.runs,
        "threads": parsed.threads,
        "median_seconds": medians,
        "saved_bytes": saved,
        "plain_over_fast": round(speed, 2),
        "saved_fast_over_plain": round(memory, 3),
    }
    save("ckr_sbu", "python -m benchmarks.ckr_sbu", figures)


def make_cases(batch: int, classes: int, width: int, size: int):
    """Return two functions that give CKR + SBU of the same inputs, ready for ``backward``, and the inputs with a gradient."""
    import torch

    from tests.oracles.ckr_sbu import plain_class_knowledge, plain_semantic_update
    from torch_impl.methods.uccl.ckr_sbu import class_knowledge, cosine, semantic_update

    torch.manual_seed(0)
    weak = torch.randn(batch, width, size, size).relu()
    strong = (weak + torch.randn_like(weak)).relu().requires_grad_()
    coarse = 3 * torch.randn(batch, classes, 9, 9)
    weak_logits = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear").requires_grad_()
    strong_logits = (weak_logits.detach() + torch.randn(batch, classes, size, size)).requires_grad_()
    ignored = torch.zeros(batch, size, size, dtype=torch.bool)
    ignored[:, -max(size // 10, 1) :] = True

    def fast():
        sbu = semantic_update(cosine(weak, strong, 1), weak_logits.detach(), strong_logits, ignored, THRESHOLD)
        return sbu + class_knowledge(weak, strong, weak_logits, ignored)

    def plain():
        similarity = torch.nn.functional.cosine_similarity(weak, strong, dim=1, eps=1e-6)
        sbu = plain_semantic_update(similarity, weak_logits.detach(), strong_logits, ignored, THRESHOLD)
        return sbu + plain_class_knowledge(weak, strong, weak_logits, ignored)

    return fast, plain, (strong, weak_logits, strong_logits)


def saved_bytes(loss) -> int:
    """Return the bytes of all distinct storages that the graph of ``loss()`` keeps for its backward pass."""
    import torch

    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss()
    del value
    return sum(storages.values())


if __name__ == "__main__":
    raise SystemExit(run_command(main))
