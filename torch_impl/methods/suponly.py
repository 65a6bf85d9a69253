"""Supervised-only training: one network, labelled images; the MindSpore file of the same name mirrors this one.

    L = criterion(up(logits), labels) [+ aux_weight * criterion(up(aux), labels)]

Source: U2PL's ``train_sup.py``.
"""

from __future__ import annotations

from common.methods.interface import Batch, Clock
from torch_impl.methods.base import Method


class SupOnly(Method):
    """The baseline."""

    def step(self, batch: Batch, clock: Clock) -> dict[str, float]:
        """Run one optimiser step on ``batch["labelled"]`` and return the loss."""
        images, labels = self.labelled(batch)
        losses = self.optimizer.differentiate(
            lambda: {"sup": self.groups.mean(self.supervised, self.forward("student", images, clock), labels)}
        )
        return self.apply_gradients(losses, batch, clock)
