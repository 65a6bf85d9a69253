"""USRN's step written down plainly, with no thought of memory."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from common.methods.usrn.usrn import USRNSettings


def plain_losses(network, batch: dict, parents: Tensor, settings: USRNSettings) -> dict[str, Tensor]:
    """Return the four terms: three passes that all keep their graphs, subclass logits at the labels' size."""
    size = batch["labelled"]["label"].shape[1:]
    labelled, strong, weak = (
        network(images, (), pooled)
        for images, pooled in (
            (batch["labelled"]["image"], False),
            (batch["unlabelled"]["strong"], settings.pooled),
            (batch["unlabelled"]["weak"], settings.pooled),
        )
    )

    def supervised(logits: Tensor, labels: Tensor) -> Tensor:
        full = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)
        return F.cross_entropy(full, labels.long(), ignore_index=255)

    p, q = weak["logits"].detach().softmax(1), weak["subclass_logits"].detach().softmax(1)
    confidence_sub, star = q.max(1)
    gate_open = _entropy(q) > _entropy(p)
    mask = torch.ones_like(p)
    for index in range(p.shape[1]):
        closed = ~gate_open & (parents[star].long() != index)
        mask[:, index][closed] = 0
    confidence, label = (mask * p).max(1)
    sub = F.cross_entropy(strong["subclass_logits"], star, reduction="none") * (confidence_sub > settings.threshold)
    regularised = F.cross_entropy(strong["logits"], label, reduction="none") * (confidence > settings.threshold)
    return {
        "sup": settings.sup_weight * supervised(labelled["logits"], batch["labelled"]["label"]),
        "sup_sub": settings.subclass_weight
        * settings.sup_weight
        * supervised(labelled["subclass_logits"], batch["labelled"]["subclass"]),
        "unsup_sub": settings.subclass_weight * settings.unsup_weight * sub.mean(),
        "unsup_reg": settings.unsup_weight * regularised.mean(),
    }


def _entropy(p: Tensor) -> Tensor:
    return -(p * torch.log2(p + 1e-30)).sum(1) / math.log2(p.shape[1])
