"""DeepLabv3+ with the decoder variants of all five papers as options; the MindSpore file of the same name mirrors this one.

Sources: the authors' networks (U2PL ``u2pl/models/``, PCR ``core/models/``, USRN and UCCL ``models/``, ``model/``; CPS and CPCL).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.arrays import Size
from common.config.schema import NetworkConfig
from common.networks.plan import stage_channels
from torch_impl.networks.layers import ConvNorm, Dropout, GlobalBatchNorm, Masks, batch_norm, conv
from torch_impl.networks.prototype_head import prototype_map
from torch_impl.networks.resnet import ResNet
from torch_impl.networks.tiny import TinyEncoder
from torch_impl.resize import halve, resize

Wanted = Sequence[str] | None
"""Names of the outputs of a network that a pass is for; None: all."""


class PoolingBranch(nn.Module):
    """Mean over all positions, 1x1 convolution, BatchNorm and an activation (``conv``, ``bn``)."""

    def __init__(self, inputs: int, outputs: int, negative_slope: float = 0.0) -> None:
        super().__init__()
        self.conv = conv(inputs, outputs, 1)
        self.bn = batch_norm(outputs)
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B,outputs,1,1]``; a batch of one image has no variance, so its running statistics serve, unmoved."""
        x = self.conv(x.mean((2, 3), keepdim=True))
        if self.bn.training and len(x) == 1 and not isinstance(self.bn, GlobalBatchNorm):
            bn = self.bn
            x = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, False, 0.0, bn.eps)
        else:
            x = self.bn(x)
        return F.leaky_relu(x, self.negative_slope, True) if self.negative_slope else F.relu(x, inplace=True)


class ConcatASPP(nn.Module):
    """Atrous pyramid whose branches (pooling first or last) are concatenated and merged by a 1x1 or 3x3 convolution."""

    def __init__(self, inputs: int, config: NetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.pool_first = config.aspp_pool_position == "first"
        self.branches = nn.ModuleList(
            [ConvNorm(inputs, width, 1)] + [ConvNorm(inputs, width, 3, dilation) for dilation in config.aspp_dilations]
        )
        self.pool = PoolingBranch(inputs, width)
        self.merge = ConvNorm(width * (len(config.aspp_dilations) + 2), width, config.aspp_merge_kernel)
        self.dropout = Dropout(config.aspp_dropout, config.aspp_dropout_kind, width, "high")

    def forward(self, x: Tensor, masks: Masks = ()) -> Tensor:
        """Map the last stage ``[B,inputs,h,w]`` to ``[B,width,h,w]``."""
        maps = [branch(x) for branch in self.branches]
        pooled = self.pool(x).expand(-1, -1, x.shape[2], x.shape[3])
        maps = [pooled, *maps] if self.pool_first else [*maps, pooled]
        return self.dropout(self.merge(torch.cat(maps, 1)), masks)


class SumASPP(nn.Module):
    """CPCL's pyramid: one BatchNorm over the concatenated maps, the pooled branch is added."""

    slope = 0.01

    def __init__(self, inputs: int, config: NetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.branches = nn.ModuleList(
            [conv(inputs, width, 1)] + [conv(inputs, width, 3, dilation=dilation) for dilation in config.aspp_dilations]
        )
        self.branches_bn = batch_norm(width * len(self.branches))
        self.branches_merge = conv(width * len(self.branches), width, 1)
        self.pool = PoolingBranch(inputs, width, self.slope)
        self.pool_merge = conv(width, width, 1)
        self.sum_bn = batch_norm(width)

    def forward(self, x: Tensor, masks: Masks = ()) -> Tensor:
        """Map the last stage ``[B,inputs,h,w]`` to ``[B,width,h,w]``."""
        maps = torch.cat([branch(x) for branch in self.branches], 1)
        maps = self.branches_merge(F.leaky_relu(self.branches_bn(maps), self.slope, inplace=True))
        return F.leaky_relu(self.sum_bn(maps + self.pool_merge(self.pool(x))), self.slope, inplace=True)


class Decoder(nn.Module):
    """ASPP on the last stage, a projection of layer1, both at layer1's size, concatenated (``aspp``, ``low``)."""

    def __init__(self, low: int, high: int, config: NetworkConfig) -> None:
        super().__init__()
        self.aspp = SumASPP(high, config) if config.aspp == "sum" else ConcatASPP(high, config)
        self.low = ConvNorm(low, config.low_level_channels, 1, bias=config.low_level_bias)
        self.low_first = config.fuse_order == "low_first"

    def forward(self, low: Tensor, high: Tensor, masks: Masks = ()) -> Tensor:
        """Return the fused features ``[B,width+low_level_channels,h,w]`` at layer1's size."""
        projected = self.low(low)
        context = resize(self.aspp(high, masks), low.shape[2:])
        return torch.cat([projected, context] if self.low_first else [context, projected], 1)


class PredictionHead(nn.Module):
    """Two 3x3 convolutions with BatchNorm, ReLU and dropout, and a 1x1 projection with bias."""

    def __init__(self, inputs: int, outputs: int, config: NetworkConfig) -> None:
        super().__init__()
        width, bias, kind = config.width, config.head_bias, config.head_dropout_kind
        self.conv1 = conv(inputs, width, 3, bias=bias)
        self.bn1 = batch_norm(width)
        self.dropout1 = Dropout(config.head_dropout[0], kind, width)
        self.conv2 = conv(width, width, 3, bias=bias)
        self.bn2 = batch_norm(width)
        self.dropout2 = Dropout(config.head_dropout[1], kind, width, "output")
        self.project = conv(width, outputs, 1, bias=True)

    def features(self, x: Tensor, masks: Masks = ()) -> Tensor:
        """Return the features ``[B,width,h,w]`` after the second ReLU."""
        x = self.dropout1(F.relu(self.bn1(self.conv1(x)), inplace=True), masks)
        return F.relu(self.bn2(self.conv2(x)), inplace=True)

    def forward(self, x: Tensor, masks: Masks = (), pooled: bool = False) -> tuple[Tensor, Tensor]:
        """Return the projection ``[B,outputs,h,w]``, of halved features if ``pooled``, and the features before it."""
        features = self.features(x, masks)
        return self.project(self.dropout2(halve(features) if pooled else features, masks)), features


class AuxiliaryHead(nn.Module):
    """Auxiliary logits from layer3: 3x3 convolution with bias, BatchNorm, ReLU, dropout 0.1, 1x1."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.conv = conv(inputs, width, 3, bias=True)
        self.bn = batch_norm(width)
        self.dropout = Dropout(0.1, "channel", width)
        self.project = conv(width, outputs, 1, bias=True)

    def features(self, x: Tensor) -> Tensor:
        """Return the features ``[B,width,h,w]`` after the ReLU."""
        return F.relu(self.bn(self.conv(x)), inplace=True)

    def forward(self, x: Tensor, masks: Masks = ()) -> Tensor:
        """Return logits ``[B,K,h,w]`` at layer3's size."""
        return self.project(self.dropout(self.features(x), masks))


class DeepLab(nn.Module):
    """Encoder, decoder and the heads that the configuration asks for.

    ``forward`` returns a dict: ``logits`` [B,K,h,w] at layer1's size, ``features`` (fused, before the classifier), ``decoder``
    (before the classifier's projection) and, where configured, ``representation``, ``aux`` and ``subclass_logits``. With
    ``pooled`` the classifiers see 2x2 means of their features: ``logits`` and ``subclass_logits`` at half of layer1's size.
    ``prototypes`` ``[K*M,C]`` (row k*M + m, no gradient) belong to :meth:`prototype_logits`.
    """

    def __init__(self, config: NetworkConfig, classes: int) -> None:
        super().__init__()
        self.classes = classes
        channels = stage_channels(config)
        fused = config.width + config.low_level_channels
        self.encoder = TinyEncoder(config) if config.encoder == "tiny" else ResNet(config)
        self.decoder = Decoder(channels[0], channels[-1], config)
        self.classifier = PredictionHead(fused, classes, config)
        self.representation = PredictionHead(fused, config.representation, config) if config.representation else None
        self.auxiliary = AuxiliaryHead(channels[2], classes, config.width) if config.auxiliary else None
        self.decoder_subclass = Decoder(channels[0], channels[-1], config) if config.subclasses else None
        self.classifier_subclass = PredictionHead(fused, config.subclasses, config) if config.subclasses else None
        shape = (classes * config.prototypes, fused)
        self.register_buffer("prototypes", torch.zeros(shape) if config.prototypes else None)
        self.prototype_rule = config.prototype_temperature, config.prototype_norm
        self.dropouts = [layer for layer in self.modules() if isinstance(layer, Dropout) and layer.p > 0]
        for site, layer in enumerate(self.dropouts):
            layer.site = site
        self.output_names = ["features", "logits", "decoder"]
        self.output_names += ["representation"] if config.representation else []
        self.output_names += ["aux"] if config.auxiliary else []
        self.output_names += ["subclass_logits"] if config.subclasses else []

    def forward(self, x: Tensor, masks: Masks = (), pooled: bool = False, wanted: Wanted = None) -> dict[str, Tensor]:
        """Run the network on normalised images ``[B,3,H,W]``; see the class for the outputs, of which those ``wanted`` come."""
        return self.heads(self.encoder(x), masks, pooled, wanted)

    def heads(
        self, stages: list[Tensor], masks: Masks = (), pooled: bool = False, wanted: Wanted = None
    ) -> dict[str, Tensor]:
        """Return the outputs of :meth:`forward` for the encoder's ``stages``.

        A head whose output is not wanted does not run in eval mode; in train mode it runs as far as its BatchNorm layers see
        the batch.
        """
        wanted, outputs = self.output_names if wanted is None else wanted, {}
        outputs["features"] = fused = self.decoder(stages[0], stages[-1], masks)
        if "logits" in wanted or "decoder" in wanted:
            outputs["logits"], outputs["decoder"] = self.classifier(fused, masks, pooled)
        elif self.training:
            self.classifier.features(fused, masks)
        if "representation" in wanted:
            outputs["representation"] = self.representation(fused, masks)[0]
        elif self.training and self.representation is not None:
            self.representation.features(fused, masks)
        if "aux" in wanted:
            outputs["aux"] = self.auxiliary(stages[2], masks)
        elif self.training and self.auxiliary is not None:
            self.auxiliary.features(stages[2])
        if self.classifier_subclass is not None and ("subclass_logits" in wanted or self.training):
            high = self.encoder.subclass_features(stages[0])
            other = self.decoder_subclass(stages[0], high, masks)
            if "subclass_logits" in wanted:
                outputs["subclass_logits"] = self.classifier_subclass(other, masks, pooled)[0]
            else:
                self.classifier_subclass.features(other, masks)
        return {name: outputs[name] for name in wanted}

    def prototype_logits(self, features: Tensor, size: Size, rows: int | None = None) -> Tensor:
        """Return the prototype head's logits ``[B,K,H,W]`` at ``size`` for fused ``features``, ``rows`` rows at a time (None: all)."""
        return prototype_map(features, self.prototype_grid(), size, *self.prototype_rule, rows)

    def prototype_grid(self) -> Tensor:
        """Return the prototypes as ``[K,M,C]``."""
        return self.prototypes.view(self.classes, -1, self.prototypes.shape[1])

    def perturbed(self, x: Tensor, feature_masks: Masks, masks: Masks = ()) -> dict[str, Tensor]:
        """Return the outputs of 2B images: those of :meth:`forward`, then those of features multiplied by ``feature_masks``.

        The two ``feature_masks`` ``[B,C,1,1]`` are for the encoder's first and last stage. Decoder and heads see all 2B
        images at once, so their BatchNorm statistics are common; ``masks`` are for 2B images.
        """
        stages = list(self.encoder(x))
        for index, mask in zip((0, -1), feature_masks):
            stages[index] = torch.cat([stages[index], stages[index] * mask])
        return self.heads(stages, masks)

    def stages(self, x: Tensor) -> dict[str, Tensor]:
        """Return every intermediate result of the class branch in order, for comparing runtimes stage by stage."""
        results = self.encoder.stem_stages(x)
        for name, feature in zip(self.encoder.stage_names, self.encoder(x)):
            results[name] = feature
        low, high = results["layer1"], results[self.encoder.stage_names[-1]]
        results["aspp"] = self.decoder.aspp(high)
        results["low"] = self.decoder.low(low)
        results["features"] = self.decoder(low, high)
        results["logits"], results["decoder"] = self.classifier(results["features"])
        if self.prototypes is not None:
            results["prototype_logits"] = self.prototype_logits(results["features"], x.shape[2:])
        return results
