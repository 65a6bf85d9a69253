"""Two networks of one architecture trained side by side (CPCL, CPS); the PyTorch file of the same name mirrors this one.

A step of such a method has several losses, each of one branch alone. They are differentiated one after the other and their
gradients added up, so that only one pass is in memory at a time; weights move at the end of the step only. Every pass in
train mode moves the running statistics of its branch, those without gradient too, so the order of passes matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from common.methods.cpcl.collaborative import Draws, StepDraws
from common.methods.cpcl.cpcl import Variant
from common.methods.groups import PerGroup
from common.methods.interface import Batch, Clock
from mindspore_impl.methods.base import Method
from mindspore_impl.methods.cpcl.collaborative import Prediction, mixed_prediction
from mindspore_impl.mixing import cutmix

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
def unmoved_statistics(network: nn.Cell) -> Iterator[None]:
    """Give all running statistics of ``network`` back the values that they have now."""
    statistics = tuple(p for p in network.get_parameters() if p.name.endswith(("moving_mean", "moving_variance")))
    keep, give_back = _compiled_copies(statistics)
    keep()
    try:
        yield
    finally:
        give_back()


@lru_cache(maxsize=1)
def _compiled_copies(parameters: tuple[ms.Parameter, ...]) -> tuple[Callable[[], tuple], Callable[[], tuple]]:
    """Return a compiled graph that copies all ``parameters``, and one that gives them the copies back."""
    copies = [ms.Parameter(p.asnumpy().copy(), name=f"{p.name}.copy", requires_grad=False) for p in parameters]
    sides = ms.ParameterTuple(copies), ms.ParameterTuple(parameters)

    def compiled(targets: ms.ParameterTuple, sources: ms.ParameterTuple) -> Callable[[], tuple]:
        @ms.jit
        def copy() -> tuple[Tensor, ...]:
            # All results are returned: what a graph does not return it need not compute.
            return _EACH(_ASSIGN, targets, sources)

        return copy

    return compiled(*sides), compiled(*reversed(sides))


_EACH, _ASSIGN = ops.HyperMap(), ops.MultitypeFuncGraph("assign")


@_ASSIGN.register("Tensor", "Tensor")
def _assign(target: Tensor, source: Tensor) -> Tensor:
    return ops.assign(target, source)
