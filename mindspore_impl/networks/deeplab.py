"""DeepLabv3+ with the decoder variants of all five papers as options; the PyTorch file of the same name mirrors this one.

Sources: the authors' networks (U2PL ``u2pl/models/``, PCR ``core/models/``, USRN and UCCL ``models/``, ``model/``; CPS and CPCL).
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from common.arrays import Size
from common.config.schema import NetworkConfig
from common.networks.plan import stage_channels
from mindspore_impl.networks.layers import ConvNorm, Dropout, GlobalBatchNorm, Masks, batch_norm, conv
from mindspore_impl.networks.prototype_head import prototype_map
from mindspore_impl.networks.resnet import ResNet
from mindspore_impl.networks.tiny import TinyEncoder
from mindspore_impl.resize import halve, resize


class PoolingBranch(nn.Cell):
    """Mean over all positions, 1x1 convolution, BatchNorm and an activation (``conv``, ``bn``)."""

    def __init__(self, inputs: int, outputs: int, negative_slope: float = 0.0) -> None:
        super().__init__()
        self.conv = conv(inputs, outputs, 1)
        self.bn = batch_norm(outputs)
        self.together = isinstance(self.bn, GlobalBatchNorm)
        self.negative_slope = negative_slope

    def construct(self, x: Tensor) -> Tensor:
        """Return ``[B,outputs,1,1]``; a batch of one image has no variance, so its running statistics serve, unmoved."""
        x = self.conv(ops.mean(x, (2, 3), True))
        if self.bn.training and x.shape[0] == 1 and not self.together:
            mean, variance, scale, shift = (
                v.reshape(1, -1, 1, 1)
                for v in (self.bn.moving_mean, self.bn.moving_variance, self.bn.gamma, self.bn.beta)
            )
            x = (x - mean) / ops.sqrt(variance + self.bn.eps) * scale + shift
        else:
            x = self.bn(x)
        return ops.leaky_relu(x, self.negative_slope) if self.negative_slope else ops.relu(x)


class ConcatASPP(nn.Cell):
    """Atrous pyramid whose branches (pooling first or last) are concatenated and merged by a 1x1 or 3x3 convolution."""

    def __init__(self, inputs: int, config: NetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.pool_first = config.aspp_pool_position == "first"
        self.branches = nn.CellList(
            [ConvNorm(inputs, width, 1)] + [ConvNorm(inputs, width, 3, dilation) for dilation in config.aspp_dilations]
        )
        self.pool = PoolingBranch(inputs, width)
        self.merge = ConvNorm(width * (len(config.aspp_dilations) + 2), width, config.aspp_merge_kernel)
        self.dropout = Dropout(config.aspp_dropout, config.aspp_dropout_kind, width, "high")

    def construct(self, x: Tensor, masks: Masks = ()) -> Tensor:
        """Map the last stage ``[B,inputs,h,w]`` to ``[B,width,h,w]``."""
        maps = [branch(x) for branch in self.branches]
        pooled = ops.broadcast_to(self.pool(x), (-1, -1, x.shape[2], x.shape[3]))
        maps = [pooled, *maps] if self.pool_first else [*maps, pooled]
        return self.dropout(self.merge(ops.cat(maps, 1)), masks)


class SumASPP(nn.Cell):
    """CPCL's pyramid: one BatchNorm over the concatenated maps, the pooled branch is added."""

    slope = 0.01

    def __init__(self, inputs: int, config: NetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.branches = nn.CellList(
            [conv(inputs, width, 1)] + [conv(inputs, width, 3, dilation=dilation) for dilation in config.aspp_dilations]
        )
        self.branches_bn = batch_norm(width * len(self.branches))
        self.branches_merge = conv(width * len(self.branches), width, 1)
        self.pool = PoolingBranch(inputs, width, self.slope)
        self.pool_merge = conv(width, width, 1)
        self.sum_bn = batch_norm(width)

    def construct(self, x: Tensor, masks: Masks = ()) -> Tensor:
        """Map the last stage ``[B,inputs,h,w]`` to ``[B,width,h,w]``."""
        maps = ops.cat([branch(x) for branch in self.branches], 1)
        maps = self.branches_merge(ops.leaky_relu(self.branches_bn(maps), self.slope))
        return ops.leaky_relu(self.sum_bn(maps + self.pool_merge(self.pool(x))), self.slope)


class Decoder(nn.Cell):
    """ASPP on the last stage, a projection of layer1, both at layer1's size, concatenated (``aspp``, ``low``)."""

    def __init__(self, low: int, high: int, config: NetworkConfig) -> None:
        super().__init__()
        self.aspp = SumASPP(high, config) if config.aspp == "sum" else ConcatASPP(high, config)
        self.low = ConvNorm(low, config.low_level_channels, 1, bias=config.low_level_bias)
        self.low_first = config.fuse_order == "low_first"

    def construct(self, low: Tensor, high: Tensor, masks: Masks = ()) -> Tensor:
        """Return the fused features ``[B,width+low_level_channels,h,w]`` at layer1's size."""
        projected = self.low(low)
        context = resize(self.aspp(high, masks), low.shape[2:])
        return ops.cat([projected, context] if self.low_first else [context, projected], 1)


class PredictionHead(nn.Cell):
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
        x = self.dropout1(ops.relu(self.bn1(self.conv1(x))), masks)
        return ops.relu(self.bn2(self.conv2(x)))

    def construct(self, x: Tensor, masks: Masks = (), pooled: bool = False) -> tuple[Tensor, Tensor]:
        """Return the projection ``[B,outputs,h,w]``, of halved features if ``pooled``, and the features before it."""
        features = self.features(x, masks)
        return self.project(self.dropout2(halve(features) if pooled else features, masks)), features


class AuxiliaryHead(nn.Cell):
    """Auxiliary logits from layer3: 3x3 convolution with bias, BatchNorm, ReLU, dropout 0.1, 1x1."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.conv = conv(inputs, width, 3, bias=True)
        self.bn = batch_norm(width)
        self.dropout = Dropout(0.1, "channel", width)
        self.project = conv(width, outputs, 1, bias=True)

    def features(self, x: Tensor) -> Tensor:
        """Return the features ``[B,width,h,w]`` after the ReLU."""
        return ops.relu(self.bn(self.conv(x)))

    def construct(self, x: Tensor, masks: Masks = ()) -> Tensor:
        """Return logits ``[B,K,h,w]`` at layer3's size."""
        return self.project(self.dropout(self.features(x), masks))


class DeepLab(nn.Cell):
    """Encoder, decoder and the heads that the configuration asks for.

    ``construct`` returns a dict: ``logits`` [B,K,h,w] at layer1's size, ``features`` (fused, before the classifier), ``decoder``
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
        # Zeros by NumPy: under no_init_parameters MindSpore would leave a Tensor without memory.
        self.prototypes = ms.Parameter(np.zeros(shape, np.float32), requires_grad=False) if config.prototypes else None
        self.prototype_rule = config.prototype_temperature, config.prototype_norm
        self.dropouts = [layer for _, layer in self.cells_and_names() if isinstance(layer, Dropout) and layer.p > 0]
        for site, layer in enumerate(self.dropouts):
            layer.site = site
        self.output_names = ["features", "logits", "decoder"]
        self.output_names += ["representation"] if config.representation else []
        self.output_names += ["aux"] if config.auxiliary else []
        self.output_names += ["subclass_logits"] if config.subclasses else []

    def construct(self, x: Tensor, masks: Masks = (), pooled: bool = False) -> dict[str, Tensor]:
        """Run the network on normalised images ``[B,3,H,W]``; see the class for the outputs."""
        return dict(zip(self.output_names, self.outputs(x, masks, pooled)))

    def outputs(self, x: Tensor, masks: Masks = (), pooled: bool = False) -> tuple[Tensor, ...]:
        """Return the values of :meth:`construct` in the order of ``output_names``."""
        return self.heads(self.encoder(x), masks, pooled)

    def heads(self, stages: list[Tensor], masks: Masks = (), pooled: bool = False) -> tuple[Tensor, ...]:
        """Return the values of :meth:`construct`, in the order of ``output_names``, for the encoder's ``stages``."""
        features = self.decoder(stages[0], stages[-1], masks)
        logits, decoder = self.classifier(features, masks, pooled)
        outputs = (features, logits, decoder)
        if self.representation is not None:
            outputs += (self.representation(features, masks)[0],)
        if self.auxiliary is not None:
            outputs += (self.auxiliary(stages[2], masks),)
        if self.classifier_subclass is not None:
            high = self.encoder.subclass_features(stages[0])
            fused = self.decoder_subclass(stages[0], high, masks)
            outputs += (self.classifier_subclass(fused, masks, pooled)[0],)
        return outputs

    @ms.jit
    def compiled_outputs(self, training: bool, x: Tensor, *masks: Tensor) -> tuple[Tensor, ...]:
        """Return the values of :meth:`outputs` from one compiled graph per mode, input shape and number of masks."""
        return self.outputs(x, masks)

    @ms.jit
    def compiled_pooled_outputs(self, training: bool, x: Tensor, *masks: Tensor) -> tuple[Tensor, ...]:
        """Return what :meth:`compiled_outputs` does, with ``pooled``."""
        return self.outputs(x, masks, True)

    def prototype_logits(self, features: Tensor, size: Size, rows: int | None = None) -> Tensor:
        """Return the prototype head's logits ``[B,K,H,W]`` at ``size`` for fused ``features``, ``rows`` rows at a time (None: all)."""
        return prototype_map(features, self.prototype_grid(), size, *self.prototype_rule, rows)

    def prototype_grid(self) -> Tensor:
        """Return the prototypes as ``[K,M,C]``."""
        return self.prototypes.reshape(self.classes, -1, self.prototypes.shape[1])

    def perturbed(self, x: Tensor, feature_masks: Masks, masks: Masks = ()) -> tuple[Tensor, ...]:
        """Return the outputs of 2B images: those of :meth:`construct`, then those of features multiplied by ``feature_masks``.

        The two ``feature_masks`` ``[B,C,1,1]`` are for the encoder's first and last stage. Decoder and heads see all 2B
        images at once, so their BatchNorm statistics are common; ``masks`` are for 2B images.
        """
        stages = list(self.encoder(x))
        low, high = stages[0], stages[-1]
        stages[0] = ops.cat([low, low * feature_masks[0]])
        stages[-1] = ops.cat([high, high * feature_masks[1]])
        return self.heads(stages, masks)

    @ms.jit
    def compiled_perturbed(
        self, training: bool, x: Tensor, low_mask: Tensor, high_mask: Tensor, *masks: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the values of :meth:`perturbed` from one compiled graph per mode, input shape and number of masks."""
        return self.perturbed(x, (low_mask, high_mask), masks)

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


def forward(network: DeepLab, x: Tensor, masks: Masks = (), pooled: bool = False) -> dict[str, Tensor]:
    """Return what ``network(x, masks, pooled)`` returns, by a compiled graph: the way to train.

    A graph is compiled once per network, train or eval mode, input shape, masks or none, with or without gradient. It
    follows ``network.set_train`` and every change of parameters but ``set_data``; the mode of a single layer (a frozen
    BatchNorm) must be set before the first call. Inside ``ms.value_and_grad`` only the network is compiled, so what uses
    the outputs may look at values.
    """
    run = network.compiled_pooled_outputs if pooled else network.compiled_outputs
    return dict(zip(network.output_names, run(network.training, x, *masks)))


def forward_perturbed(network: DeepLab, x: Tensor, feature_masks: Masks, masks: Masks = ()) -> dict[str, Tensor]:
    """Return what ``network.perturbed`` returns, by name and by a compiled graph; see :func:`forward`."""
    return dict(zip(network.output_names, network.compiled_perturbed(network.training, x, *feature_masks, *masks)))
