"""What both frameworks must agree on about networks: block counts, strides, dilations, channels, initial values."""

from __future__ import annotations

from dataclasses import dataclass

from common.arrays import Size
from common.config.schema import NetworkConfig

StagePlan = list[tuple[int, int, tuple[int, ...]]]
"""Planes, stride of the first block and every block's dilation, stage by stage."""


@dataclass(frozen=True)
class ResNetSpec:
    """Blocks and planes of the four stages."""

    bottleneck: bool
    blocks: tuple[int, int, int, int]
    planes: tuple[int, int, int, int] = (64, 128, 256, 512)


RESNETS = {
    "resnet18": ResNetSpec(False, (2, 2, 2, 2)),
    "resnet50": ResNetSpec(True, (3, 4, 6, 3)),
    "resnet101": ResNetSpec(True, (3, 4, 23, 3)),
}

TINY_CHANNELS = (16, 32, 48, 64)
"""Channels of the tiny encoder: stem, layer1, layer2, layer3."""


def stage_plan(config: NetworkConfig) -> StagePlan:
    """Return the stages of a ResNet encoder.

    A stage whose stride would exceed ``output_stride`` keeps stride 1 and doubles the dilation instead; its first block
    still has the dilation of the stage before, unless ``multi_grid`` gives the last stage's multipliers.
    """
    spec = RESNETS[config.encoder]
    plan: StagePlan = [(spec.planes[0], 1, (1,) * spec.blocks[0])]
    stride_so_far, dilation = 4, 1
    for index in range(1, config.stages):
        blocks, previous, stride = spec.blocks[index], dilation, 2
        if stride_so_far >= config.output_stride:
            stride, dilation = 1, dilation * 2
        stride_so_far *= stride
        dilations = (previous,) + (dilation,) * (blocks - 1)
        if index == 3 and config.multi_grid:
            dilations = tuple(dilation * multiplier for multiplier in config.multi_grid)
        plan.append((spec.planes[index], stride, dilations))
    return plan


def stage_channels(config: NetworkConfig) -> list[int]:
    """Return the number of channels of every stage's output."""
    if config.encoder == "tiny":
        return list(TINY_CHANNELS[1:])
    spec = RESNETS[config.encoder]
    return [planes * (4 if spec.bottleneck else 1) for planes in spec.planes[: config.stages]]


def map_sizes(config: NetworkConfig, size: Size, pooled: bool = False) -> dict[str, Size]:
    """Return height and width of a network's maps for images of ``size``.

    ``high`` is the last stage, ``low`` layer1 and thus the logits; ``output`` is what the classifiers' projections get:
    ``low``, halved if ``pooled``.
    """

    def side(length: int) -> tuple[int, int, int]:
        stem = (length + 1) // 2
        low = stem // 2 + 1 if config.encoder != "tiny" and config.stem_pool == "ceil" else (stem + 1) // 2
        high = low
        for stride in [2] if config.encoder == "tiny" else [stride for _, stride, _ in stage_plan(config)[1:]]:
            high = (high + stride - 1) // stride
        return high, low, low // 2 if pooled else low

    return dict(zip(("high", "low", "output"), zip(*(side(length) for length in size))))
