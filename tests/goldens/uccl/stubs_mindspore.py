"""Stand-in networks of UCCL's golden files in MindSpore; the PyTorch file mirrors this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.api import _pynative_executor

from mindspore_impl.methods import base


class TwoConvolutions(nn.Cell):
    """Two 3x3 convolutions with padding 1 and a ReLU between them."""

    def __init__(self, parameters: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        for name, values in parameters.items():
            setattr(self, name, Parameter(Tensor(values.copy()), name=name))
        self.classes = len(parameters["c2_bias"])
        self.output_names = ["logits"]

    def construct(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``logits``."""
        return {"logits": self.logits(x)}

    def logits(self, x: Tensor) -> Tensor:
        """Return ``[B,K,H,W]``."""
        hidden = ops.relu(ops.conv2d(x, self.c1_weight, self.c1_bias, 1, "pad", 1))
        return ops.conv2d(hidden, self.c2_weight, self.c2_bias, 1, "pad", 1)

    @ms.jit
    def compiled_outputs(self, training: bool, x: Tensor) -> tuple[Tensor, ...]:
        """Return what :meth:`construct` does, by a compiled graph."""
        return (self.logits(x),)


class Prepared(nn.Cell):
    """Answers call i with ``answers[i]``: output name -> names of the parameters that are joined to it."""

    def __init__(
        self,
        values: Mapping[str, np.ndarray],
        answers: Sequence[Mapping[str, Sequence[str]]],
        record: Callable[[bool, bool, np.ndarray], None],
    ) -> None:
        super().__init__()
        self.encoder = nn.Dense(1, 1, has_bias=False)  # the optimiser wants a group of its own for the encoder
        for name, array in values.items():
            setattr(self, name, Parameter(Tensor(array.copy()), name=name))
        self.answers, self.record, self.calls = answers, record, 0
        self.dropouts: list[nn.Cell] = []

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs of the next call."""
        return list(self.answers[self.calls])

    def compiled_outputs(self, training: bool, x: Tensor, *masks: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs prepared for this call; ``record`` is told mode, gradient and images."""
        self.record(training, _pynative_executor.requires_grad(), x.asnumpy().copy())
        self.calls += 1
        answer = self.answers[self.calls - 1].values()
        return tuple(ops.cat([getattr(self, part) for part in parts]) for parts in answer)

    def compiled_perturbed(self, training: bool, x: Tensor, *masks: Tensor) -> tuple[Tensor, ...]:
        """Return what :meth:`compiled_outputs` does."""
        return self.compiled_outputs(training, x)


@contextmanager
def precise(network: nn.Cell) -> Iterator[Callable[[np.ndarray], Tensor]]:
    """Give the function that makes tensors, float32; meanwhile the methods run networks operator by operator.

    Compiling so deep a network for the five shapes of a step takes a minute.
    """
    before = base.forward, base.forward_perturbed
    base.forward = lambda net, *rest: net(*rest)
    base.forward_perturbed = lambda net, *rest: dict(zip(net.output_names, net.perturbed(*rest)))
    try:
        yield lambda array: Tensor(np.array(array))
    finally:
        base.forward, base.forward_perturbed = before
