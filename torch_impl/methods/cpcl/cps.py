"""CPS (cross pseudo supervision) in PyTorch; the MindSpore file of the same name mirrors this one.

    with CutMix:     L = sup(f1(x), y) + sup(f2(x), y) + unsup_weight * (CE(f1(mix), p2) + CE(f2(mix), p1))
    without:         L = sup(f1(x), y) + sup(f2(x), y) + unsup_weight * (CE(A1, arg max A2) + CE(A2, arg max A1))

p_k: class ids of network k on the mixed image, from its passes over the two unlabelled batches without gradient. A_k: logits of
network k on x and u, one after the other. CE: mean over all pixels. Passes of each branch in the order u0, u1, mix, x with
CutMix, x, u without. There one pass of each branch is in memory, or (``memory: frugal``) one alone: branch 2 runs twice then.

Source: charlesCXK/TorchSemiSeg; switches: ``common/methods/cpcl/cps.py``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from common.methods.groups import PerGroup
from common.methods.interface import Batch, Clock, summed
from torch_impl.losses import cross_entropy
from torch_impl.methods.cpcl.collaborative import class_ids
from torch_impl.methods.cpcl.two_branches import BRANCHES, TwoBranches, unmoved_statistics
from torch_impl.resize import resize


class CPS(TwoBranches):
    """Two networks that label for each other."""

    def losses(self, batch: Batch, clock: Clock, draws: PerGroup) -> dict[str, float]:
        """Leave this step's gradients in both optimisers and return the loss terms and ``loss``, their sum."""
        return self._mixed_losses(batch, clock, draws) if self.settings.cutmix else self._plain_losses(batch, clock)

    def learn(self, branch: int, terms: Callable[[], dict[str, Tensor]], add: bool = False) -> dict[str, float]:
        """Differentiate a part of the loss; its gradient, not its value, is divided by ``legacy_grad_scale``."""
        scale = self.settings.legacy_grad_scale
        values = super().learn(branch, lambda: {name: term / scale for name, term in terms().items()}, add)
        return {name: value * scale for name, value in values.items()}

    def _mixed_losses(self, batch: Batch, clock: Clock, draws: PerGroup) -> dict[str, float]:
        images, labels = self.labelled(batch)
        first, other, masks, mixed = self.mixing(batch, draws)
        pseudo_labels = {branch: self.predicted(branch, first, other, masks, clock).label for branch in BRANCHES}

        def learn_mixed(branch: int) -> dict[str, float]:
            def terms() -> dict[str, Tensor]:
                scores = resize(self.logits(branch, mixed, "mixed", clock), mixed.shape[2:])
                loss = self.groups.mean(cross_entropy, scores, pseudo_labels[3 - branch])
                return {f"cps{branch}": self.settings.unsup_weight * loss}

            return self.learn(branch, terms)

        parts = [learn_mixed(branch) for branch in BRANCHES]
        parts += [self.learn_labelled(branch, images, labels, clock, add=True) for branch in BRANCHES]
        return summed(parts)

    def _plain_losses(self, batch: Batch, clock: Clock) -> dict[str, float]:
        views = {name: self.session.tensor(batch[name]["image"]) for name in ("labelled", "unlabelled")}
        labels = self.session.tensor(batch["labelled"]["label"])
        size, count = labels.shape[1:], sum(len(images) for images in views.values())
        pseudo_labels: dict[tuple[int, str], Tensor] = {}
        learned: dict[tuple[int, str], dict[str, float]] = {}

        def learn_view(branch: int, view: str) -> None:
            weight = self.settings.unsup_weight * len(views[view]) / count

            def terms() -> dict[str, Tensor]:
                scores = resize(self.logits(branch, views[view], view, clock), size)
                if (branch, view) not in pseudo_labels:
                    pseudo_labels[branch, view] = class_ids(scores.detach(), size)
                if (3 - branch, view) not in pseudo_labels:
                    learn_view(3 - branch, view)  # while this pass is in memory
                losses = {}
                if view == "labelled":
                    losses[f"sup{branch}"] = self.groups.mean(self.supervised, {"logits": scores}, labels)
                loss = self.groups.mean(cross_entropy, scores, pseudo_labels[3 - branch, view])
                return losses | {f"cps{branch}": weight * loss}

            learned[branch, view] = self.learn(branch, terms, add=view == "unlabelled")

        if self.settings.memory == "fast":
            for view in views:
                learn_view(2, view)
        else:
            for view in views:
                pseudo_labels[2, view] = class_ids(self.logits(2, views[view], view, clock, gradient=False), size)
            for view in views:
                learn_view(1, view)
            with unmoved_statistics(self.nets["branch2"]):  # the passes that gave its labels have moved them
                for view in views:
                    learn_view(2, view)
        return summed([learned[branch, view] for branch in BRANCHES for view in views])
