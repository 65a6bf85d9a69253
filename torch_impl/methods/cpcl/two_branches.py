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

from common.config.schema import ExperimentConfig
from common.methods.cpcl.collaborative import Draws, StepDraws
from common.methods.cpcl.cpcl import Variant
from common.methods.interface import Batch, Clock, check_finite
from torch_impl.checkpoint import load_network, network_tensors
from torch_impl.losses import supervised_loss
from torch_impl.methods.cpcl.collaborative import Prediction, mixed_prediction
from torch_impl.mixing import cutmix
from torch_impl.optimizer import Optimizer
from torch_impl.predictor import TorchPredictor
from torch_impl.resize import resize
from torch_impl.session import Session

BRANCHES = (1, 2)


class TwoBranches:
    """Networks, optimisers and state of both branches; a method adds ``losses``."""

    def __init__(self, config: ExperimentConfig, session: Session) -> None:
        self.config, self.session = config, session
        self.settings = config.method
        self.classes = len(config.dataset.classes)
        self.branch1, self.branch2 = session.network("branch1"), session.network("branch2")
        self.optimizers = {1: Optimizer(self.branch1, config.optimizer), 2: Optimizer(self.branch2, config.optimizer)}

    def step(self, batch: Batch, clock: Clock, draws: Draws | None = None) -> dict[str, float]:
        """Run one step of both optimisers and return the loss terms as they enter the sum."""
        losses = self.losses(batch, clock, draws or StepDraws(self.config.trainer.seed, clock))
        check_finite(losses, batch)
        for optimizer in self.optimizers.values():
            optimizer.step(clock)
        return losses

    def losses(self, batch: Batch, clock: Clock, draws: Draws) -> dict[str, float]:
        """Leave this step's gradients in both optimisers and return the loss terms and ``loss``, their sum."""
        raise NotImplementedError

    def network(self, branch: int) -> nn.Module:
        """Return the network of ``branch`` 1 or 2."""
        return getattr(self, f"branch{branch}")

    def logits(self, branch: int, images: Tensor, view: str, clock: Clock) -> Tensor:
        """Return logits ``[B,K,h,w]`` of a pass in train mode; ``view`` names the images, for the dropout masks."""
        network = self.network(branch).train()
        masks = self.session.masks(network, f"branch{branch} {view}", clock, len(images), images.shape[2:])
        return network(images, masks)["logits"]

    def mixing(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return both unlabelled batches ``[B,3,H,W]``, the CutMix masks bool ``[B,H,W]`` and the mixed images."""
        first, other = (self.session.tensor(batch[name]["image"]) for name in ("unlabelled", "unlabelled_other"))
        masks = self.session.tensor(draws.mix_masks(len(first), tuple(first.shape[2:])))
        return first, other, masks, cutmix(first, other, masks)

    def predicted(
        self, branch: int, first: Tensor, other: Tensor, masks: Tensor, clock: Clock, variant: Variant = "head"
    ) -> Prediction:
        """Return what ``branch`` says of the mixed images, from its passes over the two batches in this order."""
        with torch.no_grad():
            kept = self.logits(branch, first, "unlabelled", clock)
            taken = self.logits(branch, other, "unlabelled_other", clock)
            return mixed_prediction(kept, taken, masks, first.shape[2:], variant)

    def learn(self, branch: int, terms: Callable[[], dict[str, Tensor]], add: bool = False) -> dict[str, float]:
        """Differentiate ``terms`` with respect to ``branch`` (with ``add`` on top of earlier ones) and return their values."""
        return self.optimizers[branch].differentiate(terms, add)

    def learn_labelled(
        self, branch: int, images: Tensor, labels: Tensor, clock: Clock, add: bool = False
    ) -> dict[str, float]:
        """Do so for the supervised loss, named ``sup1`` or ``sup2``."""

        def terms() -> dict[str, Tensor]:
            scores = resize(self.logits(branch, images, "labelled", clock), labels.shape[1:])
            return {f"sup{branch}": supervised_loss(self.config.criterion, scores, labels)}

        return self.learn(branch, terms, add)

    def networks(self) -> dict[str, dict[str, np.ndarray]]:
        """Return the tensors of both branches."""
        return {f"branch{branch}": network_tensors(self.network(branch)) for branch in BRANCHES}

    def state(self) -> dict[str, np.ndarray]:
        """Return the momenta of both optimisers, ``branch1.momentum.NAME`` and ``branch2.momentum.NAME``."""
        parts = {branch: self.optimizers[branch].state() for branch in BRANCHES}
        return {f"branch{branch}.{name}": value for branch, part in parts.items() for name, value in part.items()}

    def restore(self, networks: dict[str, dict[str, np.ndarray]], state: dict[str, np.ndarray]) -> None:
        """Take back a saved run."""
        for branch in BRANCHES:
            role = f"branch{branch}"
            load_network(self.network(branch), networks[role], role)
            own = {name: value for name, value in state.items() if name.startswith(f"{role}.")}
            self.optimizers[branch].restore({name.removeprefix(f"{role}."): value for name, value in own.items()})

    def evaluated(self, clock: Clock) -> str:
        """Branch 1 throughout, unless the evaluation asks for branch 2 (``specs/cpcl.md`` section 8)."""
        return f"branch{self.config.evaluation.branch}"

    def predictor(self, role: str) -> TorchPredictor:
        """Return a predictor over the live network of ``role``."""
        return TorchPredictor(getattr(self, role), self.session.device)


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
