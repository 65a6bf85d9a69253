"""SGD or AdamW with an encoder and a head group; the PyTorch file mirrors this one."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.experimental.optim import AdamW

from common.checkpoints.dialects import torch_norms
from common.config.schema import OptimizerConfig, Precision
from common.methods.interface import Clock
from common.training.loss_scale import LossScale
from common.training.schedules import learning_rate
from mindspore_impl.processes import Processes

BETA, EPSILON = 0.999, 1e-8
"""AdamW's second beta, and what it adds to a root; the first beta is ``optimizer.momentum``."""
BUFFERS = {"sgd": {"momentum": "accum"}, "adamw": {"momentum": "exp_avg", "square": "exp_avg_sq"}}
"""By rule the names that a parameter's buffers have in a saved run, and MindSpore's own."""


class Optimizer:
    """SGD with momentum, or AdamW, and weight decay on every parameter or on kernels only; names that start with ``encoder.`` learn at
    the base rate, all others ``head_lr_times`` faster; poly schedule.

    ``accumulate`` calls of :meth:`step` make one step with the mean of their gradients. With ``precision`` fp16 the loss is scaled;
    a step whose gradients are not finite is left out, and the scale halved.
    """

    def __init__(
        self,
        network: nn.Cell,
        config: OptimizerConfig,
        accumulate: int = 1,
        precision: Precision = "float32",
        processes: Processes | None = None,
    ) -> None:
        self.config, self.processes = config, processes
        self.accumulate, self._added = accumulate, 0
        self.scale = LossScale() if precision == "fp16" else None
        named = torch_norms(dict(network.parameters_and_names()))
        groups: dict[tuple[bool, bool], dict[str, Tensor]] = {}
        for name, parameter in named.items():
            if parameter.requires_grad:
                groups.setdefault(self.group(name, parameter.ndim), {})[name] = parameter
        self._groups = sorted(groups)
        self.names, self.parameters = zip(*(entry for key in self._groups for entry in groups[key].items()))
        self.running_means = [p for name, p in network.parameters_and_names() if name.endswith("moving_mean")]
        self.gradients: tuple[Tensor, ...] = ()
        # Groups, because in a plain list of parameters MindSpore exempts BatchNorm's from weight decay.
        parts = [
            {
                "params": list(groups[key].values()),
                "lr": config.lr,
                "weight_decay": 0.0 if key[1] else config.weight_decay,
            }
            for key in self._groups
        ]
        if config.type == "adamw":
            self.rule = AdamW(parts, config.lr, (config.momentum, BETA), EPSILON)
            self._rates = self.rule.lrs
        else:
            self.rule = nn.SGD(parts, config.lr, momentum=config.momentum)
            sizes = [len(groups[key]) for key in self._groups]
            # One entry per parameter, shared within a group.
            self._rates = [self.rule.learning_rate[sum(sizes[:index])] for index in range(len(sizes))]

    def group(self, name: str, dimensions: int) -> tuple[bool, bool]:
        """Return whether a parameter learns at the heads' rate and whether it is spared from weight decay."""
        return not name.startswith("encoder."), self.config.decay_on == "kernels" and dimensions < 2

    def rates(self, clock: Clock) -> tuple[float, float]:
        """Return the learning rates of encoder and heads in this step."""
        rate = learning_rate(self.config, clock)
        return rate, rate * self.config.head_lr_times

    def differentiate(
        self,
        *parts: Callable[[], dict[str, Tensor]],
        add: bool = False,
        shown: Callable[[], dict[str, Tensor]] = dict,
    ) -> dict[str, float]:
        """Keep the gradient of the sum of all terms of ``parts`` for :meth:`step`, and return the terms and ``loss``, their sum.

        A part is differentiated before the next one is called: intermediate results of one are in memory at a time. With ``add``
        the gradient is added to what an earlier call of this step has left. ``shown`` gives more values to return, once all parts
        have been called.
        ``loss`` is NaN if a BatchNorm's running mean is not finite: MindSpore's ReLU turns NaN into 0 on a CPU, so that a
        network that has broken down still gives finite losses.
        """

        factor = (self.scale.value if self.scale else 1.0) / self.accumulate
        if not add and not self._added:
            self.gradients = ()  # those of the last step need not stay in memory during this one
        values: dict[str, Tensor] = {}
        for part in parts:

            def total(part: Callable[[], dict[str, Tensor]] = part) -> tuple[Tensor, dict[str, Tensor]]:
                terms = part()
                loss = sum(terms.values())
                return loss if factor == 1 else loss * factor, terms

            (_, terms), gradients = ms.value_and_grad(total, None, self.parameters, has_aux=True)()
            earlier, self.gradients = self.gradients, ()
            self.gradients = tuple(map(operator.add, earlier, gradients)) if earlier else gradients
            values |= terms
        values = {name: value.item() for name, value in (values | {"loss": sum(values.values())} | shown()).items()}
        sound = not self.running_means or bool(ops.isfinite(ops.cat(self.running_means)).all())
        return values if sound else values | {"loss": math.nan}

    def step(self, clock: Clock) -> bool:
        """Set this step's rates and apply the gradients of all processes that :meth:`differentiate` left.

        Returns whether enough have come.
        """
        self._added = (self._added + 1) % self.accumulate
        if self._added:
            return False
        if self.processes:
            self.gradients = self.processes.sum_gradients(self.gradients)
        if self.scale and not self._unscaled():
            return True
        rates = self.rates(clock)
        for rate, (heads, _) in zip(self._rates, self._groups):
            ops.assign(rate, ms.Tensor(rates[heads], ms.float32))  # set_data would be ignored by the compiled update
        self.rule(self.gradients)
        return True

    def _unscaled(self) -> bool:
        """Divide the gradients by the loss's factor, which moves on, and return whether they are finite."""
        finite = bool(ms.amp.all_finite(self.gradients).asnumpy())
        self.gradients = tuple(gradient / self.scale.value for gradient in self.gradients)
        self.scale.update(finite)
        return finite

    def state(self) -> dict[str, np.ndarray]:
        """Return of every parameter that has learned ``momentum.NAME``, with AdamW ``square.NAME`` and ``steps.NAME``; and fp16's scale."""
        state: dict[str, np.ndarray] = {}
        adamw = self.config.type == "adamw"
        steps = int(self.rule.state_step.item()) if adamw else 0  # one counter for all parameters
        for index, name in enumerate(self.names):
            if steps if adamw else not self.rule.stat[index].asnumpy().any():
                for saved, buffers in BUFFERS[self.config.type].items():
                    state[f"{saved}.{name}"] = getattr(self.rule, buffers)[index].asnumpy().copy()
                if adamw:
                    state[f"steps.{name}"] = np.int64([steps])
        return state | (self.scale.state() if self.scale else {})

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` returned."""
        for index, name in enumerate(self.names):
            if self.config.type == "sgd":
                unused = self.rule.stat[index]  # while 1, SGD overwrites the momentum
                ops.assign(unused, ops.full_like(unused, float(f"momentum.{name}" not in state)))
            for saved, buffers in BUFFERS[self.config.type].items():
                buffer, value = getattr(self.rule, buffers)[index], state.get(f"{saved}.{name}")
                ops.assign(buffer, ops.zeros_like(buffer) if value is None else ms.Tensor(value))
        if self.config.type == "adamw":
            steps = max((int(value[0]) for name, value in state.items() if name.startswith("steps.")), default=0)
            ops.assign(self.rule.state_step, ms.Tensor(steps, ms.int32))
        if self.scale and "loss_scale" in state:
            self.scale.restore(state)
