"""Supervised-only training: one network, labelled images; the MindSpore file of the same name mirrors this one.

    L = criterion(up(logits), labels) [+ aux_weight * criterion(up(aux), labels)]

Source: ``specs/u2pl.md`` section 11.
"""

from __future__ import annotations

from torch import Tensor

from common.methods.interface import Batch, Clock, check_finite
from torch_impl.losses import supervised_loss
from torch_impl.methods.base import OneNetwork
from torch_impl.resize import resize


class SupOnly(OneNetwork):
    """The baseline; implements :class:`common.methods.interface.Method`."""

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
