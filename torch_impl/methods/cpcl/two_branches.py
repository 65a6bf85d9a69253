"""Two networks of one architecture trained side by side (CPCL, CPS); the MindSpore file of the same name mirrors this one.

A step of such a method has several losses, each of one branch alone. They are differentiated one after the other and their
gradients added up, so that only one pass is in memory at a time; weights move at the end of the step only. Every pass in
train mode moves the running statistics of its branch, those without gradient too, so the order of passes matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from common.methods.cpcl.collaborative import Draws, StepDraws
from common.methods.cpcl.cpcl import Variant
from common.methods.groups import PerGroup
from common.methods.interface import Batch, Clock
from torch_impl.methods.base import Method
from torch_impl.methods.cpcl.collaborative import Prediction, mixed_prediction
from torch_impl.mixing import cutmix

BRANCHES = (1, 2)


class TwoBranches(Method):
    """Both branches; a method adds ``losses``."""

    roles = trained = ("branch1", "branch2")

    def step(self, batch: Batch, clock: Clock, draws: Draws | PerGroup | None = None) -> dict[str, float]:
        """Run one step of both optimisers and return the loss terms as they enter the sum."""
        draws = self.groups.draws(draws, lambda group: StepDraws(self.config.trainer.seed, clock, group))
        losses = self.losses(batch, clock, draws)
        return self.apply_gradients(losses, batch, clock)

    def losses(self, batch: Batch, clock: Clock, draws: PerGroup) -> dict[str, float]:
        """Leave this step's gradients in both optimisers and return the loss terms and ``loss``, their sum."""
        raise NotImplementedError

    def logits(self, branch: int, images: Tensor, view: str, clock: Clock, gradient: bool = True) -> Tensor:
        """Return logits ``[B,K,h,w]`` of a pass in train mode; ``view`` names the images, for the dropout masks."""
        role = f"branch{branch}"
        return self.forward(role, images, clock, f"{role} {view}", gradient=gradient)["logits"]

    def mixing(self, batch: Batch, draws: PerGroup) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return both unlabelled batches ``[B,3,H,W]``, the CutMix masks bool ``[B,H,W]`` and the mixed images."""
        first, other = (self.session.tensor(batch[name]["image"]) for name in ("unlabelled", "unlabelled_other"))
        count, size = len(first) // self.groups.per_process, tuple(first.shape[2:])
        masks = self.session.tensor(np.concatenate([group.mix_masks(count, size) for group in draws]))
        return first, other, masks, cutmix(first, other, masks)

    def predicted(
        self, branch: int, first: Tensor, other: Tensor, masks: Tensor, clock: Clock, variant: Variant = "head"
    ) -> Prediction:
        """Return what ``branch`` says of the mixed images, from its passes over the two batches in this order."""
        kept = self.logits(branch, first, "unlabelled", clock, gradient=False)
        taken = self.logits(branch, other, "unlabelled_other", clock, gradient=False)
        return mixed_prediction(kept, taken, masks, first.shape[2:], variant, self.groups.per_process)

    def learn(self, branch: int, terms: Callable[[], dict[str, Tensor]], add: bool = False) -> dict[str, float]:
        """Differentiate ``terms`` with respect to ``branch`` (with ``add`` on top of earlier ones) and return their values."""
        return self.optimizers[f"branch{branch}"].differentiate(terms, add=add)

    def learn_labelled(
        self, branch: int, images: Tensor, labels: Tensor, clock: Clock, add: bool = False
    ) -> dict[str, float]:
        """Do so for the supervised loss, named ``sup1`` or ``sup2``."""

        def terms() -> dict[str, Tensor]:
            logits = self.logits(branch, images, "labelled", clock)
            return {f"sup{branch}": self.groups.mean(self.supervised, {"logits": logits}, labels)}

        return self.learn(branch, terms, add)

    def evaluated(self, clock: Clock) -> str:
        """Branch 1 throughout, unless the evaluation asks for branch 2."""
        return f"branch{self.config.evaluation.branch}"


@contextmanager
def unmoved_statistics(network: nn.Module) -> Iterator[None]:
    """Give all running statistics of ``network`` back the values that they have now."""
    before = [buffer.clone() for buffer in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(network.buffers(), before):
                buffer.copy_(value)
