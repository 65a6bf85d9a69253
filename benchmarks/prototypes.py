"""``python -m benchmarks.prototypes``: PCR's prototype branch against its plain transcription, time and memory, in one run.

``train``: forward, backward and upkeep at VOC's shape: 2 + 2 images of 513x513, features 512 x 129 x 129, 21 x 4
prototypes, 1024 pixels an image. ``evaluate``: the prototype head on one Cityscapes image of 1024x2048, features 512 x 256
x 512, 19 x 3 prototypes.
"""

from __future__ import annotations

from benchmarks.harness import options, run_cases
from common.command_line import run_command

FORMS = ("ours", "plain")


def main(arguments: list[str] | None = None) -> None:
    """Run every case in both forms and save the ratios."""
    cases = {
        name: {form: lambda _, case=case, form=form: case(form) for form in FORMS}
        for name, case in (("train", train_case), ("evaluate", evaluate_case))
    }
    parser = options("prototypes", "Time PCR's prototype branch against its plain transcription.", turns=3)
    run_cases("prototypes", cases, parser, arguments)


def train_case(form: str):
    """Return a function that runs forward, backward and upkeep."""
    import torch
    import torch.nn.functional as F

    from common.methods.interface import Clock
    from common.methods.pcr.pcr import PCRSettings, StepDraws
    from tests.oracles.prototypes import plain_prototype_step
    from torch_impl.methods.pcr.prototypes import (
        pixel_features,
        pixel_labels,
        prototype_sums,
        updated_prototypes,
    )
    from torch_impl.networks.prototype_head import prototype_logits

    torch.manual_seed(0)
    size, shape = (513, 513), (21, 4)
    features = torch.rand(4, 512, 129, 129, requires_grad=True)
    labels = torch.randint(0, shape[0], (4, *size), dtype=torch.uint8)
    prototypes = torch.rand(*shape, 512)
    clock = Clock(epoch=1, step=0, iteration=1, epochs=2, iterations_per_epoch=1)
    pixels = StepDraws(PCRSettings(), 0, clock).pixels(size)
    mask = torch.zeros(size[0] * size[1], dtype=torch.bool)
    mask[torch.from_numpy(pixels)] = True
    mask, wide = mask.view(size), labels.long()

    def plain():
        features.grad = None
        loss, moved = plain_prototype_step(features, wide, prototypes, mask, 0.1, 0.99)
        loss.backward()
        return moved

    def ours():
        features.grad = None
        rows, targets = pixel_features(features, pixels, size), pixel_labels(labels, pixels)
        logits, match = prototype_logits(rows, prototypes, 0.1)
        F.cross_entropy(logits, targets.long(), ignore_index=255).backward()
        return updated_prototypes(prototypes, *prototype_sums(rows, targets, match, shape), 0.99)

    return {"plain": plain, "ours": ours}[form]


def evaluate_case(form: str):
    """Return a function that gives the prototype head's logits of one large image."""
    import torch

    from common.prediction.predictor import STRIP_ROWS
    from tests.oracles.prototypes import plain_prototype_map
    from torch_impl.networks.prototype_head import prototype_map

    torch.manual_seed(0)
    features, prototypes, size = torch.rand(1, 512, 256, 512), torch.rand(19, 3, 512), (1024, 2048)
    if form == "plain":
        return lambda: plain_prototype_map(features, prototypes, size, 0.1)
    return lambda: prototype_map(features, prototypes, size, 0.1, "torch", STRIP_ROWS)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
