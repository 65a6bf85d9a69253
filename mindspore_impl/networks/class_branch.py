"""The class branch of a two-branch network, for evaluation; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn

from mindspore_impl.networks.deeplab import DeepLab


class ClassBranch(nn.Cell):
    """Encoder, decoder and classifier of ``network``, whose tensors it shares; the subclass branch is not run."""

    def __init__(self, network: DeepLab) -> None:
        super().__init__(auto_prefix=False)  # the network's parameters keep their names
        self.network, self.classes = network, network.classes
        self.output_names = ["logits"]

    def construct(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``logits`` ``[B,K,h,w]`` at layer1's size of normalised images ``[B,3,H,W]``."""
        return {"logits": self.logits(x)}

    def logits(self, x: Tensor) -> Tensor:
        """Return the value of :meth:`construct`."""
        stages = self.network.encoder(x)
        return self.network.classifier(self.network.decoder(stages[0], stages[-1]))[0]

    @ms.jit
    def compiled_outputs(self, training: bool, x: Tensor) -> tuple[Tensor, ...]:
        """Return the value of :meth:`construct` from a compiled graph."""
        return (self.logits(x),)

    def stages(self, x: Tensor) -> dict[str, Tensor]:
        """Return the network's intermediate results, in order."""
        return self.network.stages(x)
