"""What every method needs to run in PyTorch: device, threads, networks with their initial values, tensors of a batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from common.arrays import Size
from common.checkpoints.backbone import load_backbone
from common.config.schema import ExperimentConfig
from common.methods.interface import Clock
from common.networks.dropout import draw_masks
from common.networks.initial import initial_tensors
from common.networks.plan import map_sizes
from common.rng import generator
from torch_impl.checkpoint import load_network, network_tensors
from torch_impl.device import choose_device
from torch_impl.networks import build_network


class Session:
    """The PyTorch side of one run: where tensors live and how networks and dropout masks are made."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        if config.trainer.threads:
            torch.set_num_threads(config.trainer.threads)
        self.device = choose_device(config.trainer.device)
        self.notes: list[str] = []

    def network(self, role: str) -> nn.Module:
        """Return the experiment's network on the device, with values drawn for ``role`` and the backbone file's, if any."""
        config = self.config.network
        network = build_network(config, len(self.config.dataset.classes))
        shapes = {name: tensor.shape for name, tensor in network_tensors(network).items()}
        values = initial_tensors(shapes, config, self.config.trainer.seed, role)
        if config.backbone_weights:
            self.notes.append(f"{role}: {load_backbone(values, config)}")
        load_network(network, values, f"the initial values of {role}")
        return network.to(self.device)

    def tensor(self, array: np.ndarray) -> Tensor:
        """Return ``array`` on the device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)

    def masks(
        self, network: nn.Module, purpose: str, clock: Clock, batch: int, size: Size | None = None, pooled: bool = False
    ) -> list[Tensor]:
        """Return the dropout masks of one forward pass, drawn on the host when ``deterministic_dropout`` is on, else none.

        Otherwise PyTorch draws them itself, from a generator that is set anew for every pass, so that resuming repeats them.
        Masks of single elements need the images' ``size`` and whether the pass is ``pooled``.
        """
        trainer = self.config.trainer
        rng = generator(trainer.seed, f"dropout {purpose}", clock.epoch, clock.step)
        if trainer.deterministic_dropout:
            sizes = map_sizes(self.config.network, size, pooled) if size else None
            return [self.tensor(mask) for mask in draw_masks(network.dropouts, batch, rng, sizes)]
        torch.manual_seed(int(rng.integers(2**63)))
        return []
