"""The class branch of a two-branch network, for evaluation; the MindSpore file of the same name mirrors this one."""

from __future__ import annotations

from torch import Tensor, nn

from torch_impl.networks.deeplab import DeepLab, Wanted


class ClassBranch(nn.Module):
    """Encoder, decoder and classifier of ``network``, whose tensors it shares; the subclass branch is not run."""

    def __init__(self, network: DeepLab) -> None:
        super().__init__()
        self.network, self.classes = network, network.classes

    def forward(self, x: Tensor, wanted: Wanted = ("logits",)) -> dict[str, Tensor]:
        """Return ``logits`` ``[B,K,h,w]`` at layer1's size of normalised images ``[B,3,H,W]``, or other outputs of that branch."""
        return self.network(x, wanted=wanted)

    def stages(self, x: Tensor) -> dict[str, Tensor]:
        """Return the network's intermediate results, in order."""
        return self.network.stages(x)
