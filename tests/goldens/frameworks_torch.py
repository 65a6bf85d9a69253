"""PyTorch behind the interface of ``frameworks.py``; the MindSpore file mirrors this one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config.schema import NetworkConfig
from tests.goldens.frameworks import Shapes
from torch_impl.networks import build_network, layers
from torch_impl.predictor import TorchPredictor


class MiniEncoder(nn.Module):
    """Two 3x3 convolutions of stride 2, each with BatchNorm and ReLU."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        for index in (1, 2):
            outputs, inputs, kernel, _ = shapes[f"encoder.conv{index}.weight"]
            setattr(self, f"conv{index}", layers.conv(inputs, outputs, kernel, 2))
            setattr(self, f"bn{index}", layers.batch_norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B,3,H,W]`` to quarter size."""
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)))


class MiniHeads(nn.Module):
    """Convolutions with bias, one per name."""

    def __init__(self, shapes: Shapes, part: str) -> None:
        super().__init__()
        self.heads = [name.split(".")[1] for name in shapes if name.startswith(f"{part}.") and name.endswith("weight")]
        for head in self.heads:
            outputs, inputs, kernel, _ = shapes[f"{part}.{head}.weight"]
            setattr(self, head, layers.conv(inputs, outputs, kernel, bias=True))

    def forward(self, x: Tensor, wanted=None) -> dict[str, Tensor]:
        """Return every head's map of the features ``x``."""
        return {head: getattr(self, head)(x) for head in self.heads}


class MiniNet(nn.Module):
    """The network of the training-step goldens, with their names."""

    def __init__(self, shapes: Shapes, record: Callable[[bool, int], None]) -> None:
        super().__init__()
        self.encoder = MiniEncoder(shapes)
        self.decoder = MiniHeads(shapes, "decoder")
        self.auxor = MiniHeads(shapes, "auxor") if "auxor.aux.weight" in shapes else None
        self.classes = shapes["decoder.pred.weight"][0]
        self.dropouts: list[nn.Module] = []
        self.record = record

    def forward(self, x: Tensor, masks=(), pooled: bool = False, wanted=None) -> dict[str, Tensor]:
        """Return ``logits``, ``representation`` and, where there is the head, ``aux``."""
        self.record(self.training, len(x))
        features = self.encoder(x)
        maps = self.decoder(features)
        outputs = {"logits": maps["pred"], "representation": maps["rep"]}
        return outputs | self.auxor(features) if self.auxor is not None else outputs


class StandIn(nn.Module):
    """One convolution with padding 1."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.classes = len(bias)
        self.weight = nn.Parameter(torch.from_numpy(weight))
        self.bias = nn.Parameter(torch.from_numpy(bias))

    def forward(self, x: Tensor, wanted=None) -> dict[str, Tensor]:
        """Return ``logits``."""
        return {"logits": F.conv2d(x, self.weight, self.bias, self.stride, 1)}


class RecordedNet(nn.Module):
    """Gives its parameters, whatever the images are; see ``Framework.recorded_net``."""

    def __init__(self, outputs: Mapping[str, np.ndarray], prototypes: np.ndarray, temperature: float) -> None:
        super().__init__()
        # One part called encoder, because an optimiser has a group of that name.
        self.encoder = nn.ParameterDict({"logits": torch.from_numpy(outputs["logits"])})
        self.heads = nn.ParameterDict({k: torch.from_numpy(v) for k, v in outputs.items() if k != "logits"})
        self.register_buffer("prototypes", torch.from_numpy(prototypes).flatten(0, 1).clone())
        self.classes, self.prototype_rule = len(prototypes), (temperature, "torch")
        self.images = None

    def prototype_grid(self) -> Tensor:
        """Return the prototypes as ``[K,M,C]``."""
        return self.prototypes.view(self.classes, -1, self.prototypes.shape[1])

    def forward(self, x: Tensor, masks=(), pooled: bool = False, wanted=None) -> dict[str, Tensor]:
        """Return the first rows of every output."""
        self.images = x
        return {name: value[: len(x)] for name, value in [*self.encoder.items(), *self.heads.items()]}


class TorchFramework:
    """Implements :class:`tests.goldens.frameworks.Framework`."""

    name = "torch"

    def module(self, name: str) -> ModuleType:
        """See the interface."""
        return importlib.import_module(f"torch_impl.{name}")

    def tensor(self, array: np.ndarray) -> Tensor:
        """See the interface."""
        return torch.from_numpy(np.array(array))

    def constant(self, array: np.ndarray) -> Tensor:
        """See the interface."""
        return self.tensor(array)

    def array(self, tensor: Tensor) -> np.ndarray:
        """See the interface."""
        return tensor.detach().numpy().copy()

    def softmax(self, logits: np.ndarray) -> Tensor:
        """See the interface."""
        return self.tensor(logits).softmax(1)

    def gradients(self, function: Callable, *arrays: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """See the interface."""
        inputs = [self.tensor(array).requires_grad_() for array in arrays]
        loss = function(*inputs)
        loss.backward()
        return loss.item(), [self.array(value.grad) for value in inputs]

    def build(self, config: NetworkConfig, classes: int) -> nn.Module:
        """See the interface."""
        with torch.device("meta"):
            network = build_network(config, classes)
        return network.to_empty(device="cpu")

    def predictor(self, network: nn.Module) -> TorchPredictor:
        """See the interface."""
        return TorchPredictor(network)

    def outputs(self, network: nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
        """See the interface."""
        with torch.no_grad():
            return {name: self.array(value) for name, value in network.eval()(self.tensor(images)).items()}

    def mini_net(self, shapes: Shapes, record: Callable[[bool, int], None]) -> MiniNet:
        """See the interface."""
        return MiniNet(shapes, record)

    def stand_in(self, weight: np.ndarray, bias: np.ndarray, stride: int = 4) -> StandIn:
        """See the interface."""
        return StandIn(weight, bias, stride)

    def recorded_net(
        self, outputs: Mapping[str, np.ndarray], prototypes: np.ndarray, temperature: float
    ) -> RecordedNet:
        """See the interface."""
        return RecordedNet(outputs, prototypes, temperature)


FRAMEWORK = TorchFramework()
