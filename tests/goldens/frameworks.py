"""The frameworks that a golden file is checked in, behind one small interface."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from functools import cache
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from common.config.schema import NetworkConfig

FRAMEWORKS = ("torch", "mindspore")

Shapes = Mapping[str, tuple[int, ...]]


class Framework(Protocol):
    """What the checks need of a framework; ``frameworks_NAME.py`` has one implementation each."""

    name: str

    def module(self, name: str) -> ModuleType:
        """Return our module ``name`` of this framework, e.g. ``losses`` or ``methods.u2pl``."""

    def tensor(self, array: np.ndarray) -> Any:
        """Return a copy of ``array`` as a tensor."""

    def constant(self, array: np.ndarray) -> Any:
        """Return a copy of ``array`` in the form in which our functions take what carries no gradient."""

    def array(self, tensor: Any) -> np.ndarray:
        """Return a copy of ``tensor`` as a NumPy array."""

    def softmax(self, logits: np.ndarray) -> Any:
        """Return the probabilities of logits ``[B,K,H,W]``."""

    def gradients(self, function: Callable, *arrays: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """Return ``function(*tensors)``, a scalar, and its gradient with respect to each input."""

    def build(self, config: NetworkConfig, classes: int) -> Any:
        """Return our network with values that mean nothing: a checkpoint must be loaded before it runs."""

    def predictor(self, network: Any) -> Any:
        """Return our :class:`common.prediction.predictor.Predictor` over ``network``."""

    def outputs(self, network: Any, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return everything ``network`` gives for ``images`` in eval mode."""

    def mini_net(self, shapes: Shapes, record: Callable[[bool, int], None]) -> Any:
        """Return the stand-in network of the training steps.

        ``shapes`` are those of its state dict; ``record`` is told mode (train?) and batch size of every forward pass.
        """

    def stand_in(self, weight: np.ndarray, bias: np.ndarray, stride: int = 4) -> Any:
        """Return a network of one convolution with padding 1."""

    def recorded_net(self, outputs: Mapping[str, np.ndarray], prototypes: np.ndarray, temperature: float) -> Any:
        """Return a network whose parameters are its ``outputs``, of which it gives one row per image, and its ``images``.

        ``prototypes`` ``[K,M,C]`` are those of its prototype head; the last batch of images stays in ``images``.
        """


def installed(name: str) -> bool:
    """Whether the framework can be imported here."""
    return importlib.util.find_spec(name) is not None


@cache
def load_framework(name: str) -> Framework:
    """Return the implementation for ``name``."""
    return importlib.import_module(f"tests.goldens.frameworks_{name}").FRAMEWORK
