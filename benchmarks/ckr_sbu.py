"""``python -m benchmarks.ckr_sbu``: UCCL's CKR and SBU against their plain transcription, forward and backward.

VOC shape of one view: 2 images, 21 classes, features 256 x 81 x 81, a tenth of them padding.
"""

from __future__ import annotations

from benchmarks.harness import options, run_cases
from common.command_line import run_command

THRESHOLD = 0.95
FORMS = ("ours", "plain")


def main(arguments: list[str] | None = None) -> None:
    """Run both forms in turn, print what each keeps for its backward pass, and save the ratios."""
    parser = options("ckr_sbu", "Time UCCL's CKR and SBU against their plain transcription.")
    forms = {
        name: lambda _, index=index: backward(make_cases(2, 21, 256, 81)[index]) for index, name in enumerate(FORMS)
    }
    if run_cases("ckr_sbu", {"CKR and SBU": forms}, parser, arguments):
        kept = {name: saved_bytes(make_cases(2, 21, 256, 81)[index]) for index, name in enumerate(FORMS)}
        print(
            f"kept for the backward pass: {kept['ours'] / kept['plain']:.2f} of the plain form ({kept['ours'] / 1e6:.0f} MB)"
        )


def backward(loss):
    """Return a function that runs ``loss`` forward and backward."""
    return lambda: loss().backward()


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
