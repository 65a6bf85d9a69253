"""ResNet-18/50/101 encoders: 7x7 or three-3x3 stem, output stride 8 or 16, multi-grid; the MindSpore file mirrors this one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from common.config.schema import NetworkConfig
from common.networks.plan import RESNETS, stage_plan
from torch_impl.networks.layers import StemPool, batch_norm, conv, kept


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; the first carries the stride (torchvision names)."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, planes, 3, stride, dilation)
        self.bn1 = batch_norm(planes)
        self.conv2 = conv(planes, planes, 3, 1, dilation)
        self.bn2 = batch_norm(planes)
        self.downsample = shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B,inputs,h,w]`` to ``[B,planes,h/stride,w/stride]``."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out.add_(self.downsample(x)), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 (carries stride and dilation), 1x1 to four times the planes, with a shortcut (torchvision names)."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, planes, 1)
        self.bn1 = batch_norm(planes)
        self.conv2 = conv(planes, planes, 3, stride, dilation)
        self.bn2 = batch_norm(planes)
        self.conv3 = conv(planes, 4 * planes, 1)
        self.bn3 = batch_norm(4 * planes)
        self.downsample = shortcut(inputs, 4 * planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B,inputs,h,w]`` to ``[B,4*planes,h/stride,w/stride]``."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out.add_(self.downsample(x)), inplace=True)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return 1x1 convolution + BatchNorm where the shape changes, else the identity."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(conv(inputs, outputs, 1, stride), batch_norm(outputs))


def make_stage(
    block: type[nn.Module], inputs: int, planes: int, stride: int, dilations: tuple[int, ...]
) -> nn.Sequential:
    """Return one stage: a block per entry of ``dilations``, the first one with the stride."""
    blocks = []
    for index, dilation in enumerate(dilations):
        blocks.append(block(inputs, planes, stride if index == 0 else 1, dilation))
        inputs = planes * block.expansion
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """Encoder with features ``layer1`` (stride 4) to ``layer4``, or to ``layer3`` with ``stages`` 3.

    With ``subclasses`` a second copy of layer2..4 (``*_subclass``) is fed from layer1, as in USRN.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.recompute = False
        spec = RESNETS[config.encoder]
        block = Bottleneck if spec.bottleneck else BasicBlock
        if config.stem == "deep":
            self.conv1 = nn.Sequential(
                conv(3, 64, 3, 2),
                batch_norm(64),
                nn.ReLU(inplace=True),
                conv(64, 64, 3),
                batch_norm(64),
                nn.ReLU(inplace=True),
                conv(64, 128, 3),
            )
        else:
            self.conv1 = conv(3, 64, 7, 2)
        width = 128 if config.stem == "deep" else 64
        self.bn1 = batch_norm(width)
        self.pool = StemPool(config.stem_pool)
        self.stage_names: list[str] = []
        for index, (planes, stride, dilations) in enumerate(stage_plan(config), start=1):
            setattr(self, f"layer{index}", make_stage(block, width, planes, stride, dilations))
            self.stage_names.append(f"layer{index}")
            width = planes * block.expansion
        if config.subclasses:
            width = spec.planes[0] * block.expansion
            for index, (planes, stride, dilations) in enumerate(stage_plan(config)[1:], start=2):
                setattr(self, f"layer{index}_subclass", make_stage(block, width, planes, stride, dilations))
                width = planes * block.expansion

    def stem(self, x: Tensor) -> Tensor:
        """Return the pooled stem ``[B,64 or 128,H/4,W/4]`` of images ``[B,3,H,W]``."""
        return self.pool(self.before_pool(x))

    def before_pool(self, x: Tensor) -> Tensor:
        """Return the stem's convolutions ``[B,64 or 128,H/2,W/2]`` of images ``[B,3,H,W]``."""
        return F.relu(self.bn1(self.conv1(x)), inplace=True)

    def stem_stages(self, x: Tensor) -> dict[str, Tensor]:
        """Return what :meth:`stem` computes, step by step."""
        before = self.before_pool(x)
        return {"stem": before, "pool": self.pool(before)}

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
        for name in self.stage_names[1:]:
            layer1 = kept(self, getattr(self, f"{name}_subclass"), layer1)
        return layer1
