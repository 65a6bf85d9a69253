"""SGD with an encoder and a head group, and the teacher's moving average; the PyTorch file mirrors this one."""

from __future__ import annotations

import math
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from common.config import OptimizerConfig
from common.dialects import torch_norms
from common.method import Clock
from common.schedules import poly


class Optimizer:
    """SGD with momentum and weight decay on every parameter; names that start with ``encoder.`` learn at the base rate,
    all others ``head_lr_times`` faster; poly schedule (``specs/u2pl.md`` section 10)."""

    def __init__(self, network: nn.Cell, config: OptimizerConfig) -> None:
        self.config = config
        named = torch_norms(dict(network.parameters_and_names()))
        encoder = {name: p for name, p in named.items() if p.requires_grad and name.startswith("encoder.")}
        heads = {name: p for name, p in named.items() if p.requires_grad and not name.startswith("encoder.")}
        self.names, self.parameters = zip(*encoder.items(), *heads.items())
        self.running_means = [p for name, p in network.parameters_and_names() if name.endswith("moving_mean")]
        self.gradients: tuple[Tensor, ...] = ()
        # Groups, because in a plain list of parameters MindSpore exempts BatchNorm's from weight decay.
        self.sgd = nn.SGD(
            [{"params": list(group.values()), "lr": config.lr} for group in (encoder, heads)],
            config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )

    def rates(self, clock: Clock) -> tuple[float, float]:
        """Return the learning rates of encoder and heads in this step."""
        iteration = max(clock.iteration - self.config.poly_lag, 0)
        rate = poly(self.config.lr, iteration, clock.total, self.config.poly_power)
        return rate, rate * self.config.head_lr_times

    def differentiate(self, losses: Callable[[], dict[str, Tensor]]) -> dict[str, float]:
        """Call ``losses``, keep the gradient of the sum of its terms for :meth:`step`, and return the terms and ``loss``, the sum.

        ``loss`` is NaN if a BatchNorm's running mean is not finite: MindSpore's ReLU turns NaN into 0 on a CPU, so that a
        network that has broken down still gives finite losses.
        """

        def total() -> tuple[Tensor, dict[str, Tensor]]:
            terms = losses()
            return sum(terms.values()), terms

        self.gradients = ()  # those of the last step need not stay in memory during this one
        (loss, terms), self.gradients = ms.value_and_grad(total, None, self.parameters, has_aux=True)()
        values = {name: float(term.asnumpy()) for name, term in (*terms.items(), ("loss", loss))}
        sound = all(np.isfinite(mean.asnumpy()).all() for mean in self.running_means)
        return values if sound else values | {"loss": math.nan}

    def step(self, clock: Clock) -> None:
        """Set the rates of this step and apply the gradients that :meth:`differentiate` left."""
        of_parameters = self.sgd.learning_rate  # one entry per parameter, shared within a group
        for shared, rate in zip((of_parameters[0], of_parameters[-1]), self.rates(clock)):
            ops.assign(shared, ms.Tensor(rate, ms.float32))  # set_data would be ignored by the compiled update
        self.sgd(self.gradients)

    def state(self) -> dict[str, np.ndarray]:
        """Return the momentum of every parameter as ``momentum.NAME`` (none before the first step)."""
        buffers = zip(self.names, self.sgd.accum, self.sgd.stat)
        return {f"momentum.{name}": b.asnumpy().copy() for name, b, unused in buffers if not unused.asnumpy().any()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` returned."""
        for name, buffer, unused in zip(self.names, self.sgd.accum, self.sgd.stat):
            momentum = state.get(f"momentum.{name}")
            ops.assign(unused, ops.full_like(unused, float(momentum is None)))  # while 1, SGD overwrites the momentum
            if momentum is not None:
                ops.assign(buffer, ms.Tensor(momentum))


def update_teacher(teacher: nn.Cell, student: nn.Cell, decay: float) -> None:
    """Move every teacher parameter to decay * teacher + (1 - decay) * student; buffers stay the teacher's own."""
    on_cpu = ms.get_current_device().device_target == "CPU"
    for mine, theirs in zip(teacher.trainable_params(), student.trainable_params(), strict=True):
        values = mine.asnumpy()  # on a CPU the parameter's own memory, so that writing suffices
        values *= decay
        values += (1 - decay) * theirs.asnumpy()
        if not on_cpu:
            ops.assign(mine, ms.Tensor(values))
