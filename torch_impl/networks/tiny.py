"""A small encoder for tests and the drawn data set; the MindSpore file of the same name mirrors this one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from common.config.schema import NetworkConfig
from common.networks.plan import TINY_CHANNELS
from torch_impl.networks.layers import batch_norm, conv, kept
from torch_impl.networks.resnet import BasicBlock


class TinyEncoder(nn.Module):
    """3x3 stem of stride 2 and three residual blocks: layer1 at stride 4, layer2 and layer3 at stride 8.

    With ``subclasses`` a second copy of layer2 and layer3 is fed from layer1, as in ``ResNet``.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.recompute = False
        stem, first, second, third = TINY_CHANNELS
        self.conv1 = conv(3, stem, 3, 2)
        self.bn1 = batch_norm(stem)
        self.layer1 = BasicBlock(stem, first, 2, 1)
        self.layer2 = BasicBlock(first, second, 2, 1)
        self.layer3 = BasicBlock(second, third, 1, 2)
        self.stage_names = ["layer1", "layer2", "layer3"]
        if config.subclasses:
            self.layer2_subclass = BasicBlock(first, second, 2, 1)
            self.layer3_subclass = BasicBlock(second, third, 1, 2)

    def stem(self, x: Tensor) -> Tensor:
        """Return the stem's output at stride 2 of images ``[B,3,H,W]``."""
        return F.relu(self.bn1(self.conv1(x)), inplace=True)

    def stem_stages(self, x: Tensor) -> dict[str, Tensor]:
        """Return what :meth:`stem` computes, step by step."""
        return {"stem": self.stem(x)}

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of all stages, first to last, for images ``[B,3,H,W]``."""
        x = kept(self, self.stem, x)
        features = []
        for name in self.stage_names:
            x = kept(self, getattr(self, name), x)
            features.append(x)
        return features

    def subclass_features(self, layer1: Tensor) -> Tensor:
        """Return the last stage's output of the subclass branch, from the shared layer1."""
        return kept(self, self.layer3_subclass, kept(self, self.layer2_subclass, layer1))
