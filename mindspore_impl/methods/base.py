"""What methods that train one network share; the PyTorch file of the same name mirrors this one."""

from __future__ import annotations

import numpy as np

from common.config.schema import ExperimentConfig
from common.methods.interface import Clock
from mindspore_impl.checkpoint import load_network, network_tensors
from mindspore_impl.optimizer import Optimizer
from mindspore_impl.predictor import MindSporePredictor
from mindspore_impl.session import Session


class OneNetwork:
    """The student and its optimiser; a method adds ``step`` to be a :class:`common.methods.interface.Method`."""

    def __init__(self, config: ExperimentConfig, session: Session) -> None:
        self.config, self.session = config, session
        self.student = session.network("student")
        self.optimizer = Optimizer(self.student, config.optimizer)

    def networks(self) -> dict[str, dict[str, np.ndarray]]:
        """Return the network's tensors."""
        return {"student": network_tensors(self.student)}

    def state(self) -> dict[str, np.ndarray]:
        """Return the optimiser's momenta."""
        return self.optimizer.state()

    def restore(self, networks: dict[str, dict[str, np.ndarray]], state: dict[str, np.ndarray]) -> None:
        """Take back a saved run."""
        load_network(self.student, networks["student"], "student")
        self.optimizer.restore(state)

    def evaluated(self, clock: Clock) -> str:
        """The only network."""
        return "student"

    def predictor(self, role: str) -> MindSporePredictor:
        """Return a predictor over the live network."""
        return MindSporePredictor(self.student, self.session.device)
