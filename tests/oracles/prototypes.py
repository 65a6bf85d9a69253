"""PCR's prototype branch of a step, written down step by step, with no thought of cost."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def plain_prototype_step(
    features: Tensor, labels: Tensor, prototypes: Tensor, mask: Tensor, temperature: float, momentum: float
) -> tuple[Tensor, Tensor]:
    """Return the prototype loss and the new prototypes ``[K,M,C]``.

    ``features`` ``[B,C,h,w]`` are resized whole; ``mask`` bool ``[H,W]`` chooses the pixels; ``labels`` ``[B,H,W]`` long, 255 = ignore.
    """
    full = F.interpolate(features, mask.shape, mode="bilinear", align_corners=True)
    rows = full.permute(0, 2, 3, 1)[:, mask].flatten(0, 1)
    targets = labels[:, mask].flatten()
    cosines = torch.einsum("nc,kmc->nkm", F.normalize(rows, dim=1), F.normalize(prototypes, dim=2))
    best, match = cosines.max(2)
    loss = F.cross_entropy(best / temperature, targets, ignore_index=255)
    moved = prototypes.clone()
    for k in range(prototypes.shape[0]):
        for m in range(prototypes.shape[1]):
            members = (targets == k) & (match[:, k] == m)
            if members.any():
                moved[k, m] = momentum * prototypes[k, m] + (1 - momentum) * rows[members].detach().mean(0)
    return loss, moved


def plain_prototype_map(features: Tensor, prototypes: Tensor, size: tuple[int, int], temperature: float) -> Tensor:
    """Return the prototype head's logits ``[B,K,H,W]``, by way of the resized features."""
    full = F.normalize(F.interpolate(features, size, mode="bilinear", align_corners=True), dim=1)
    return torch.einsum("bchw,kmc->bkmhw", full, F.normalize(prototypes, dim=2)).amax(2) / temperature
