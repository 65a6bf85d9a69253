"""SGD with an encoder and a head group, and the teacher's moving average; the MindSpore file mirrors this one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from common.config import OptimizerConfig
from common.method import Clock
from common.schedules import poly


class Optimizer:
    """SGD with momentum and weight decay on every parameter; names that start with ``encoder.`` learn at the base rate,
    all others ``head_lr_times`` faster; poly schedule (``specs/u2pl.md`` section 10)."""

    def __init__(self, network: nn.Module, config: OptimizerConfig) -> None:
        self.config = config
        self.names, self.parameters = zip(*network.named_parameters())
        encoder = [p for name, p in network.named_parameters() if name.startswith("encoder.")]
        heads = [p for name, p in network.named_parameters() if not name.startswith("encoder.")]
        self.sgd = torch.optim.SGD(
            [{"params": encoder}, {"params": heads}],
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )

    def rates(self, clock: Clock) -> tuple[float, float]:
        """Return the learning rates of encoder and heads in this step."""
        iteration = max(clock.iteration - self.config.poly_lag, 0)
        rate = poly(self.config.lr, iteration, clock.total, self.config.poly_power)
        return rate, rate * self.config.head_lr_times

    def differentiate(self, losses: Callable[[], dict[str, Tensor]]) -> dict[str, float]:
        """Call ``losses``, keep the gradient of the sum of its terms for :meth:`step`, and return the terms and ``loss``, the sum."""
        terms = losses()
        total = sum(terms.values())
        self.sgd.zero_grad(set_to_none=True)
        total.backward()
        return {name: term.item() for name, term in (*terms.items(), ("loss", total))}

    def step(self, clock: Clock) -> None:
        """Set the rates of this step and apply the gradients that :meth:`differentiate` left."""
        for group, rate in zip(self.sgd.param_groups, self.rates(clock)):
            group["lr"] = rate
        self.sgd.step()

    def state(self) -> dict[str, np.ndarray]:
        """Return the momentum of every parameter as ``momentum.NAME`` (none before the first step)."""
        buffers = {name: self.sgd.state[p].get("momentum_buffer") for name, p in zip(self.names, self.parameters)}
        return {f"momentum.{name}": b.cpu().numpy().copy() for name, b in buffers.items() if b is not None}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` returned."""
        for name, parameter in zip(self.names, self.parameters):
            momentum = state.get(f"momentum.{name}")
            if momentum is None:
                self.sgd.state.pop(parameter, None)
            else:
                self.sgd.state[parameter]["momentum_buffer"] = torch.from_numpy(momentum.copy()).to(parameter.device)


def update_teacher(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Move every teacher parameter to decay * teacher + (1 - decay) * student; buffers stay the teacher's own."""
    with torch.no_grad():
        mine, theirs = list(teacher.parameters()), list(student.parameters())
        if decay == 0:
            torch._foreach_copy_(mine, theirs)
        else:
            torch._foreach_mul_(mine, decay)
            torch._foreach_add_(mine, theirs, alpha=1 - decay)
