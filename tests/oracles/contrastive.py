"""U2PL's contrastive loss written down step by step, with no thought of cost."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.methods.u2pl.u2pl import ContrastiveSettings, Draws


def plain_contrastive_loss(
    representation: Tensor,
    teacher_representation: Tensor,
    probabilities: Tensor,
    maps: Tensor,
    low_mask: Tensor,
    high_mask: Tensor,
    labelled: int,
    queues: list[Tensor],
    sizes: list[int],
    settings: ContrastiveSettings,
    draws: Draws,
) -> Tensor:
    """Return the loss; ``queues`` (one ``[n,D]`` tensor per class) are replaced in place in the list."""
    rep = representation.permute(0, 2, 3, 1)
    rep_teacher = teacher_representation.permute(0, 2, 3, 1)
    order = probabilities.sort(dim=1, descending=True).indices
    anchors_of, means = [], []
    valid = []
    for k in range(maps.shape[1]):
        members = maps[:, k] & low_mask
        anchors_of.append(rep[members & (probabilities[:, k] > settings.anchor_threshold)])
        means.append(rep_teacher[members].mean(0))
        if members.any():
            valid.append(k)
        in_range = (order[:, settings.low_rank : settings.high_rank] == k).any(1)
        negative = maps[:, k] & high_mask & (probabilities[:, k] < settings.negative_threshold) & in_range
        negative[:labelled] = False
        queues[k] = torch.cat([queues[k], rep_teacher[negative].detach().clone()])[-sizes[k] :]
    if len(valid) <= 1:
        return 0 * representation.sum()
    loss = 0 * representation.sum()
    for j, k in enumerate(valid):
        if len(anchors_of[j]) == 0 or len(queues[k]) == 0:
            continue
        anchors = anchors_of[j][torch.from_numpy(draws.anchors(len(anchors_of[j])))]
        negatives = queues[k][torch.from_numpy(draws.negatives(len(queues[k])))]
        negatives = negatives.reshape(settings.num_queries, settings.num_negatives, -1)
        positive = means[j].expand(settings.num_queries, 1, -1)
        others = torch.cat([positive, negatives], 1)
        logits = F.cosine_similarity(anchors.unsqueeze(1), others, dim=2) / settings.temperature
        loss = loss + F.cross_entropy(logits, torch.zeros(settings.num_queries, dtype=torch.long))
    return loss / len(valid)
