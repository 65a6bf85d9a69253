"""UCCL's two losses as the authors' program writes them: loops over images and classes.

Slow, and easy to compare with the text; the tests and the benchmark hold ``torch_impl/methods/uccl/ckr_sbu.py`` against it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def plain_region(feature: Tensor, weak_logits: Tensor, ignored: Tensor) -> Tensor:
    """Return the map X^ ``[B,C,h,w]``: every pixel has the weighted mean feature of its class."""
    images = []
    for x, z, ignore in zip(feature, weak_logits, ignored):
        channels, label = x.shape[0], z.argmax(0)
        region = x.reshape(-1, channels).clone()  # the slip: rows of the buffer, not pixels
        pixels = x.flatten(1).T
        for index in range(len(z)):
            place = ((label == index) & ~ignore).flatten()
            if not place.any():
                continue
            weights = torch.softmax(z[index].flatten()[place], 0)
            mean = (weights[:, None] * pixels[place]).sum(0)
            region = torch.where(place[:, None], mean, region)
        images.append(region.T.reshape(x.shape))
    return torch.stack(images)


def plain_class_knowledge(weak: Tensor, strong: Tensor, weak_logits: Tensor, ignored: Tensor) -> Tensor:
    """Return CKR of one view from both region maps."""
    with torch.no_grad():
        target = plain_region(weak, weak_logits, ignored)
    return 1 - F.cosine_similarity(target, plain_region(strong, weak_logits, ignored), dim=1, eps=1e-6).mean()


def plain_semantic_update(
    similarity: Tensor, weak_logits: Tensor, strong_logits: Tensor, ignored: Tensor, threshold: float
) -> Tensor:
    """Return SBU of one view: for every image and class a softmax over all pixels and a cross entropy over all pixels."""
    total = torch.zeros(())
    for s, z, q, ignore in zip(similarity, weak_logits, strong_logits, ignored):
        confidence, label = z.softmax(0).max(0)
        terms = []
        for index in range(len(z)):
            uncertain = (label == index) & ~ignore & (confidence <= threshold)
            if not uncertain.any():
                continue
            weights = torch.softmax((-s * uncertain).flatten(), 0).view_as(s)
            losses = F.cross_entropy(q[None], label[None], reduction="none")[0]
            terms.append((weights * losses * ~ignore).sum())
        if terms:
            total = total + torch.stack(terms).mean()
    return total / len(similarity)
