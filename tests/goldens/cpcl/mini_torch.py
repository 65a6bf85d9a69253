"""The small network of CPCL's training goldens in PyTorch; the MindSpore file mirrors this one."""

from __future__ import annotations

from torch import Tensor, nn

from torch_impl.networks.layers import batch_norm, conv


class MiniNet(nn.Module):
    """Two 3x3 convolutions with BatchNorm and ReLU and a 1x1 classifier, all at image size, under the goldens' names."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classes, self.dropouts = classes, []
        self.backbone = nn.Sequential(conv(3, width, 3), batch_norm(width), nn.ReLU())
        self.head = nn.Sequential(conv(width, width, 3), batch_norm(width), nn.ReLU())
        self.classifier = conv(width, classes, 1, bias=True)

    def forward(self, x: Tensor, masks=(), pooled: bool = False, wanted=None) -> dict[str, Tensor]:
        """Return ``logits``."""
        return {"logits": self.classifier(self.head(self.backbone(x)))}
