"""CPCL in MindSpore; the PyTorch file of the same name mirrors this one.

    L = sup(f1(x), y) + sup(f2(x), y) + unsup_weight * (L_inter(f1(mix)) + L_union(f2(mix)))

sup: cross entropy or OHEM with class weights. mix: CutMix of two unlabelled batches u0, u1. Both networks' outputs on u0 and u1,
without gradient, give the labels: branch 1 (conservative) learns where the two agree, branch 2 (progressive) everywhere; see
``mindspore_impl/methods/cpcl/collaborative.py`` for L_inter and L_union. Passes of each branch in this order: x, u0, u1, mix.

Source: leofansq/CPCL; switches: ``common/methods/cpcl/cpcl.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mindspore import Tensor

from common.methods.groups import PerGroup
from common.methods.interface import Batch, Clock, summed
from mindspore_impl.methods.cpcl.collaborative import intersection_loss, joint_counts, targets, union_loss
from mindspore_impl.methods.cpcl.two_branches import BRANCHES, TwoBranches
from mindspore_impl.resize import resize


class CPCL(TwoBranches):
    """A conservative and a progressive network."""

    def losses(self, batch: Batch, clock: Clock, draws: PerGroup) -> dict[str, float]:
        """Leave this step's gradients in both optimisers and return the loss terms, their sum and the branches' agreement."""
        images, labels = self.labelled(batch)
        first, other, masks, mixed = self.mixing(batch, draws)
        parts = [self.learn_labelled(branch, images, labels, clock) for branch in BRANCHES]
        predictions = [self.predicted(branch, first, other, masks, clock, self.settings.variant) for branch in BRANCHES]
        counts = joint_counts(*(prediction.label for prediction in predictions), self.classes).asnumpy()
        counts = self.processes.sum_counts(counts.astype(np.int64))
        mixed_targets = targets(*predictions, self.classes, self.settings.variant, counts)

        def learn_mixed(branch: int, name: str, loss: Callable[..., Tensor]) -> dict[str, float]:
            def terms() -> dict[str, Tensor]:
                scores = resize(self.logits(branch, mixed, "mixed", clock), mixed.shape[2:])
                return {name: self.settings.unsup_weight * self.groups.mean(loss, scores, mixed_targets, self.settings)}

            return self.learn(branch, terms, add=True)

        parts += [learn_mixed(1, "inter", intersection_loss), learn_mixed(2, "union", union_loss)]
        return summed(parts) | {"overlap": mixed_targets.disagreement.overlap / self.processes.count}
