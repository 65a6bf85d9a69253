"""MindSpore behind the interface of ``frameworks.py``; the PyTorch file mirrors this one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from common.config.schema import NetworkConfig
from mindspore_impl.networks import build_network, layers
from mindspore_impl.predictor import MindSporePredictor
from tests.goldens.frameworks import Shapes


class MiniEncoder(nn.Cell):
    """Two 3x3 convolutions of stride 2, each with BatchNorm and ReLU."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        for index in (1, 2):
            outputs, inputs, kernel, _ = shapes[f"encoder.conv{index}.weight"]
            setattr(self, f"conv{index}", layers.conv(inputs, outputs, kernel, 2))
            setattr(self, f"bn{index}", layers.batch_norm(outputs))

    def construct(self, x: Tensor) -> Tensor:
        """Map ``[B,3,H,W]`` to quarter size."""
        x = ops.relu(self.bn1(self.conv1(x)))
        return ops.relu(self.bn2(self.conv2(x)))


class MiniHeads(nn.Cell):
    """Convolutions with bias, one per name."""

    def __init__(self, shapes: Shapes, part: str) -> None:
        super().__init__()
        names = [name.split(".")[1] for name in shapes if name.startswith(f"{part}.") and name.endswith("weight")]
        for name in names:
            outputs, inputs, kernel, _ = shapes[f"{part}.{name}.weight"]
            setattr(self, name, layers.conv(inputs, outputs, kernel, bias=True))
        self.heads = [getattr(self, name) for name in names]

    def construct(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return every head's map of the features ``x``."""
        outputs = ()
        for head in self.heads:
            outputs += (head(x),)
        return outputs


class MiniNet(nn.Cell):
    """The network of the training-step goldens, with their names."""

    def __init__(self, shapes: Shapes, record: Callable[[bool, int], None]) -> None:
        super().__init__()
        self.encoder = MiniEncoder(shapes)
        self.decoder = MiniHeads(shapes, "decoder")
        self.auxor = MiniHeads(shapes, "auxor") if "auxor.aux.weight" in shapes else None
        self.classes = shapes["decoder.pred.weight"][0]
        self.output_names = ["logits", "representation"] + (["aux"] if self.auxor is not None else [])
        self.dropouts: list[nn.Cell] = []
        self.record = record

    def compiled_outputs(self, training: bool, x: Tensor) -> tuple[Tensor, ...]:
        """Return the values of ``output_names``, by a compiled graph as our networks do."""
        self.record(training, len(x))
        return self.graph(training, x)

    @ms.jit
    def graph(self, training: bool, x: Tensor) -> tuple[Tensor, ...]:
        """Return logits, representation and, where there is the head, auxiliary logits."""
        features = self.encoder(x)
        outputs = self.decoder(features)
        return outputs + self.auxor(features) if self.auxor is not None else outputs


class StandIn(nn.Cell):
    """One convolution with padding 1."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.classes = len(bias)
        self.weight = Parameter(Tensor(weight), name="weight")
        self.bias = Parameter(Tensor(bias), name="bias")
        self.output_names = ["logits"]

    def construct(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``logits``."""
        return {"logits": ops.conv2d(x, self.weight, self.bias, self.stride, "pad", 1)}

    @ms.jit
    def compiled_outputs(self, training: bool, x: Tensor) -> tuple[Tensor, ...]:
        """Return what :meth:`construct` does, by a compiled graph."""
        return (ops.conv2d(x, self.weight, self.bias, self.stride, "pad", 1),)


class Outputs(nn.Cell):
    """Parameters by name."""

    def __init__(self, values: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        for name, value in values.items():
            setattr(self, name, Parameter(Tensor(value), name=name))


class RecordedNet(nn.Cell):
    """Gives its parameters, whatever the images are; see ``Framework.recorded_net``."""

    def __init__(self, outputs: Mapping[str, np.ndarray], prototypes: np.ndarray, temperature: float) -> None:
        super().__init__()
        # One part called encoder, because an optimiser has a group of that name.
        self.encoder = Outputs({"logits": outputs["logits"]})
        self.heads = Outputs({name: value for name, value in outputs.items() if name != "logits"})
        flat = np.ascontiguousarray(prototypes.reshape(-1, prototypes.shape[2]))
        self.prototypes = Parameter(Tensor(flat), name="prototypes", requires_grad=False)
        self.classes, self.prototype_rule = len(prototypes), (temperature, "torch")
        self.output_names = list(outputs)
        self.images = None

    def prototype_grid(self) -> Tensor:
        """Return the prototypes as ``[K,M,C]``."""
        return self.prototypes.reshape(self.classes, -1, self.prototypes.shape[1])

    def compiled_outputs(self, training: bool, x: Tensor) -> tuple[Tensor, ...]:
        """Return the first rows of every output."""
        self.images = x
        parts = [self.encoder if name == "logits" else self.heads for name in self.output_names]
        return tuple(getattr(part, name)[: x.shape[0]] for part, name in zip(parts, self.output_names))


class MindSporeFramework:
    """Implements :class:`tests.goldens.frameworks.Framework`."""

    name = "mindspore"

    def module(self, name: str) -> ModuleType:
        """See the interface."""
        return importlib.import_module(f"mindspore_impl.{name}")

    def tensor(self, array: np.ndarray) -> Tensor:
        """See the interface."""
        return Tensor(np.array(array))

    def constant(self, array: np.ndarray) -> Tensor:
        """See the interface."""
        return self.tensor(array)

    def array(self, tensor: Any) -> np.ndarray:
        """See the interface."""
        return tensor.asnumpy().copy() if isinstance(tensor, Tensor) else np.array(tensor)

    def softmax(self, logits: np.ndarray) -> Tensor:
        """See the interface."""
        return ops.softmax(self.tensor(logits), 1)

    def gradients(self, function: Callable, *arrays: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """See the interface."""
        inputs = [self.tensor(array) for array in arrays]
        loss, gradients = ms.value_and_grad(function, tuple(range(len(inputs))))(*inputs)
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)  # of one input: not a tuple
        return float(loss.asnumpy()), [self.array(gradient) for gradient in gradients]

    def build(self, config: NetworkConfig, classes: int) -> nn.Cell:
        """See the interface."""
        with nn.utils.no_init_parameters():
            return build_network(config, classes)

    def predictor(self, network: nn.Cell) -> MindSporePredictor:
        """See the interface."""
        return MindSporePredictor(network)

    def outputs(self, network: nn.Cell, images: np.ndarray) -> dict[str, np.ndarray]:
        """See the interface."""
        return {name: self.array(value) for name, value in network.set_train(False)(self.tensor(images)).items()}

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


FRAMEWORK = MindSporeFramework()
