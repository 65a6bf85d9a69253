"""The small network of CPCL's training goldens in MindSpore; the PyTorch file mirrors this one."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn

from mindspore_impl.networks.layers import batch_norm, conv


class MiniNet(nn.Cell):
    """Two 3x3 convolutions with BatchNorm and ReLU and a 1x1 classifier, all at image size, under the goldens' names."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classes, self.dropouts, self.output_names = classes, [], ["logits"]
        self.backbone = nn.SequentialCell(conv(3, width, 3), batch_norm(width), nn.ReLU())
        self.head = nn.SequentialCell(conv(width, width, 3), batch_norm(width), nn.ReLU())
        self.classifier = conv(width, classes, 1, bias=True)

    @ms.jit
    def compiled_outputs(self, training: bool, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits, by a compiled graph as our networks do."""
        return (self.classifier(self.head(self.backbone(x))),)
