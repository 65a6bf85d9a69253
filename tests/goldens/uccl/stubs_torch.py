"""Stand-in networks of UCCL's golden files in PyTorch; the MindSpore file mirrors this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TwoConvolutions(nn.Module):
    """Two 3x3 convolutions with padding 1 and a ReLU between them."""

    def __init__(self, parameters: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        for name, values in parameters.items():
            setattr(self, name, nn.Parameter(torch.from_numpy(values.copy())))
        self.classes = len(self.c2_bias)

    def forward(self, x: Tensor, wanted=None) -> dict[str, Tensor]:
        """Return ``logits``."""
        hidden = F.relu(F.conv2d(x, self.c1_weight, self.c1_bias, padding=1))
        return {"logits": F.conv2d(hidden, self.c2_weight, self.c2_bias, padding=1)}


class Prepared(nn.Module):
    """Answers call i with ``answers[i]``: output name -> names of the parameters that are joined to it."""

    def __init__(
        self,
        values: Mapping[str, np.ndarray],
        answers: Sequence[Mapping[str, Sequence[str]]],
        record: Callable[[bool, bool, np.ndarray], None],
    ) -> None:
        super().__init__()
        self.encoder = nn.Linear(1, 1, bias=False)  # the optimiser wants a group of its own for the encoder
        for name, array in values.items():
            setattr(self, name, nn.Parameter(torch.from_numpy(array.copy())))
        self.answers, self.record, self.calls = answers, record, 0
        self.dropouts: list[nn.Module] = []

    def forward(self, x: Tensor, masks: Sequence[Tensor] = (), pooled: bool = False, wanted=None) -> dict[str, Tensor]:
        """Return the outputs prepared for this call; ``record`` is told mode, gradient and images."""
        self.record(self.training, torch.is_grad_enabled(), x.numpy().copy())
        self.calls += 1
        answer = self.answers[self.calls - 1]
        return {name: torch.cat([getattr(self, part) for part in parts]) for name, parts in answer.items()}

    def perturbed(self, x: Tensor, feature_masks: Sequence[Tensor], masks: Sequence[Tensor] = ()) -> dict[str, Tensor]:
        """Return what :meth:`forward` does."""
        return self(x, masks)


@contextmanager
def precise(network: nn.Module) -> Iterator[Callable[[np.ndarray], Tensor]]:
    """Turn ``network`` to float64 and give the function that makes tensors for it."""

    def tensor(array: np.ndarray) -> Tensor:
        values = torch.from_numpy(np.array(array))
        return values.double() if values.dtype == torch.float32 else values

    network.double()
    try:
        yield tensor
    finally:
        network.float()
