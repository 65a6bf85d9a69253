"""SGD or AdamW with an encoder and a head group; the MindSpore file mirrors this one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from common.config.schema import OptimizerConfig, Precision
from common.methods.interface import Clock
from common.training.schedules import learning_rate
from torch_impl.processes import Processes

BETA, EPSILON = 0.999, 1e-8
"""AdamW's second beta, and what it adds to a root; the first beta is ``optimizer.momentum``."""
BUFFERS = {"sgd": {"momentum": "momentum_buffer"}, "adamw": {"momentum": "exp_avg", "square": "exp_avg_sq"}}
"""By rule the names that a parameter's buffers have in a saved run, and PyTorch's own."""


class Optimizer:
    """SGD with momentum, or AdamW, and weight decay on every parameter or on kernels only; names that start with ``encoder.`` learn at
    the base rate, all others ``head_lr_times`` faster; poly schedule.

    ``accumulate`` calls of :meth:`step` make one step with the mean of their gradients. With ``precision`` fp16 the loss is scaled;
    a step whose gradients are not finite is left out, and the scale halved.
    """

    def __init__(
        self,
        network: nn.Module,
        config: OptimizerConfig,
        accumulate: int = 1,
        precision: Precision = "float32",
        processes: Processes | None = None,
    ) -> None:
        self.config, self.processes = config, processes
        self.accumulate, self._added = accumulate, 0
        kind = next(network.parameters()).device.type
        self.names, self.parameters = zip(*network.named_parameters())
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        for name, parameter in network.named_parameters():
            groups.setdefault(self.group(name, parameter.dim()), []).append(parameter)
        self._groups = sorted(groups)
        parts = [
            {"params": groups[key], "weight_decay": 0.0 if key[1] else config.weight_decay} for key in self._groups
        ]
        # On a CPU one pass over the values instead of one per operation; elsewhere PyTorch's choice. Not with a scaler: where
        # the first step overflows, a fused one would leave its momenta without values.
        fused = True if kind == "cpu" and precision != "fp16" else None
        if config.type == "adamw":
            self.rule = torch.optim.AdamW(parts, config.lr, (config.momentum, BETA), EPSILON, fused=fused)
        else:
            self.rule = torch.optim.SGD(parts, config.lr, config.momentum, fused=fused)
        self.scaler = torch.amp.GradScaler(kind, enabled=precision == "fp16")

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
        have been called. All come from the device in one transfer.
        """
        if not add and not self._added:
            self.rule.zero_grad(set_to_none=True)  # those of the last step need not stay in memory during this one
        values: dict[str, Tensor] = {}
        for part in parts:
            terms = part()
            total = sum(terms.values())
            self.scaler.scale(total / self.accumulate if self.accumulate > 1 else total).backward()
            values |= {name: term.detach() for name, term in terms.items()}
            del terms, total
        values |= {"loss": sum(values.values())} | shown()
        return dict(zip(values, torch.stack([value.detach().float() for value in values.values()]).tolist()))

    def step(self, clock: Clock) -> bool:
        """Set this step's rates and apply the gradients of all processes that :meth:`differentiate` left.

        Returns whether enough have come.
        """
        self._added = (self._added + 1) % self.accumulate
        if self._added:
            return False
        if self.processes:
            self.processes.sum_gradients([p.grad for p in self.parameters if p.grad is not None])
        rates = self.rates(clock)
        for group, (heads, _) in zip(self.rule.param_groups, self._groups):
            group["lr"] = rates[heads]
        self.scaler.step(self.rule)
        self.scaler.update()
        return True

    def state(self) -> dict[str, np.ndarray]:
        """Return of every parameter that has learned ``momentum.NAME``, with AdamW ``square.NAME`` and ``steps.NAME``; and fp16's scale."""
        state: dict[str, np.ndarray] = {}
        for name, parameter in zip(self.names, self.parameters):
            kept = self.rule.state[parameter]
            for saved, buffer in BUFFERS[self.config.type].items():
                if kept.get(buffer) is not None:
                    state[f"{saved}.{name}"] = kept[buffer].cpu().numpy().copy()
            if "step" in kept:
                state[f"steps.{name}"] = np.int64([int(kept["step"])])
        if self.scaler.is_enabled():
            scaler = self.scaler.state_dict()
            state |= {
                "loss_scale": np.float32([scaler["scale"]]),
                "loss_scale_steps": np.int64([scaler["_growth_tracker"]]),
            }
        return state

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` returned."""
        for name, parameter in zip(self.names, self.parameters):
            self.rule.state.pop(parameter, None)
            for saved, buffer in BUFFERS[self.config.type].items():
                if f"{saved}.{name}" in state:
                    value = torch.from_numpy(state[f"{saved}.{name}"])
                    self.rule.state[parameter][buffer] = torch.empty_like(parameter, requires_grad=False).copy_(value)
            if f"steps.{name}" in state:
                self.rule.state[parameter]["step"] = torch.tensor(float(state[f"steps.{name}"][0]))
        if self.scaler.is_enabled() and "loss_scale" in state:
            scale, steps = float(state["loss_scale"][0]), int(state["loss_scale_steps"][0])
            self.scaler.load_state_dict(self.scaler.state_dict() | {"scale": scale, "_growth_tracker": steps})
