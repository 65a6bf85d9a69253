"""Supervised-only training: one network, labelled images; the MindSpore file of the same name mirrors this one.

    L = criterion(up(logits), labels) [+ aux_weight * criterion(up(aux), labels)]

Source: ``specs/u2pl.md`` section 11.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from common.config import ExperimentConfig
from common.method import Batch, Clock, check_finite
from torch_impl.checkpoint import load_network, network_tensors
from torch_impl.layers import resize
from torch_impl.losses import supervised_loss
from torch_impl.optimizer import Optimizer
from torch_impl.predictor import TorchPredictor
from torch_impl.session import Session


class SupOnly:
    """The baseline; implements :class:`common.method.Method`."""

    def __init__(self, config: ExperimentConfig, session: Session) -> None:
        self.config, self.session = config, session
        self.student = session.network("student")
        self.optimizer = Optimizer(self.student, config.optimizer)

    def step(self, batch: Batch, clock: Clock) -> dict[str, float]:
        """Run one optimiser step on ``batch["labelled"]`` and return the loss."""
        images = self.session.tensor(batch["labelled"]["image"])
        labels = self.session.tensor(batch["labelled"]["label"])
        losses = self.optimizer.differentiate(lambda: {"sup": self._supervised(images, labels, clock)})
        check_finite(losses, batch)
        self.optimizer.step(clock)
        return losses

    def _supervised(self, images: Tensor, labels: Tensor, clock: Clock) -> Tensor:
        network, size = self.student.train(), labels.shape[1:]
        masks = self.session.masks(network, "student", clock, len(images), images.shape[2:])
        outputs = network(images, masks)
        aux = resize(outputs["aux"], size) if "aux" in outputs else None
        return supervised_loss(self.config.criterion, resize(outputs["logits"], size), labels, aux)

    def networks(self) -> dict[str, dict[str, np.ndarray]]:
        """Return the network's tensors."""
        return {"student": network_tensors(self.student)}

    def state(self) -> dict[str, np.ndarray]:
        """Return the optimiser's momenta."""
        return self.optimizer.state()

    def restore(self, networks: dict[str, dict[str, np.ndarray]], state: dict[str, np.ndarray]) -> None:
        """Take back a saved run."""
        load_network(self.student, networks["student"], "student")
        self.optimizer.restore(state)

    def evaluated(self, clock: Clock) -> str:
        """The only network."""
        return "student"

    def predictor(self, role: str) -> TorchPredictor:
        """Return a predictor over the live network."""
        return TorchPredictor(self.student, self.session.device)
