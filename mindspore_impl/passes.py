"""How a training pass of a network runs: number format, order in memory, compiled or not; the PyTorch file mirrors this one."""

from __future__ import annotations

from mindspore import nn

from common.config.schema import TrainerConfig
from common.errors import UserError
from mindspore_impl.networks.layers import half_precision

REFUSED = {
    "channels_last": "MindSpore orders the values of a map itself",
    "compile": "MindSpore compiles its networks anyway",
    "recompute": "whether MindSpore's own recomputation saves memory has not been measured",
}
"""Options of ``trainer`` that only PyTorch has, and why."""

FORMATS = {"bf16": "bfloat16", "fp16": "float16"}
"""Number formats of ``trainer.precision`` other than float32."""


class Passes:
    """Prepares networks for a training as ``trainer`` asks; they run as compiled graphs and return float32."""

    def __init__(self, trainer: TrainerConfig, device: str = "CPU") -> None:
        self.trainer = trainer
        for option, why in REFUSED.items():
            if getattr(trainer, option):
                raise UserError(f"trainer.{option}: {why}; leave it out, or train in PyTorch")
        if trainer.precision == "bf16" and str(device).upper().startswith("CPU"):
            raise UserError(
                "trainer.precision=bf16: MindSpore 2.10 has no convolution in bfloat16 on a CPU; use float32 or fp16, an Ascend "
                "processor, or PyTorch"
            )

    def prepared(self, network: nn.Cell) -> nn.Cell:
        """Return ``network`` after what has to be done to it once."""
        if self.trainer.precision != "float32":
            half_precision(network, FORMATS[self.trainer.precision])
        return network
