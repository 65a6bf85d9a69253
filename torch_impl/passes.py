"""How a training pass of a network runs: number format, order in memory, compiled or not; the MindSpore file mirrors this one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.config.schema import TrainerConfig

FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Number formats of ``trainer.precision`` other than float32."""


class Passes:
    """Runs networks in train and eval mode of a training, as ``trainer`` asks; what they return is always float32."""

    def __init__(self, trainer: TrainerConfig) -> None:
        self.trainer = trainer
        self._compiled: dict[nn.Module, Callable] = {}

    def prepared(self, network: nn.Module) -> nn.Module:
        """Return ``network`` after what has to be done to it once."""
        if self.trainer.recompute:
            network.encoder.recompute = True
        return network.to(memory_format=torch.channels_last) if self.trainer.channels_last else network

    def run(self, network: nn.Module, images: Tensor, *arguments) -> dict[str, Tensor]:
        """Return the outputs of ``network(images, *arguments)``."""
        if self.trainer.compile:
            if network not in self._compiled:
                self._compiled[network] = torch.compile(network)
            network = self._compiled[network]
        return self._run(network, images, *arguments)

    def run_perturbed(self, network: nn.Module, images: Tensor, *arguments) -> dict[str, Tensor]:
        """Return the outputs of ``network.perturbed(images, *arguments)``."""
        return self._run(network.perturbed, images, *arguments)

    def _run(self, run: Callable[..., dict[str, Tensor]], images: Tensor, *arguments) -> dict[str, Tensor]:
        if self.trainer.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if self.trainer.precision == "float32":
            return run(images, *arguments)
        with torch.autocast(images.device.type, FORMATS[self.trainer.precision]):
            outputs = run(images, *arguments)
        return {name: value.float() for name, value in outputs.items()}
