"""What every method needs to run in PyTorch: device, threads, networks with their initial values, tensors of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from common.arrays import Size
from common.checkpoints.backbone import load_backbone
from common.config.schema import ExperimentConfig
from common.loading.ahead import one_ahead
from common.methods.groups import by_stream
from common.methods.interface import Batch, Clock
from common.networks.dropout import draw_masks
from common.networks.initial import initial_tensors
from common.networks.plan import map_sizes
from common.rng import group_generator
from torch_impl.checkpoint import load_network, network_tensors
from torch_impl.device import CopyToDevice, choose_device
from torch_impl.networks import build_network
from torch_impl.processes import Processes


class Session:
    """The PyTorch side of one run: where tensors live and how networks and dropout masks are made."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        if config.trainer.threads:
            torch.set_num_threads(config.trainer.threads)
        self.device = choose_device(config.trainer.device)
        self.processes = Processes(config.trainer.groups)
        self.notes: list[str] = []
        values = (config.normalisation.mean, config.normalisation.std)
        self._normalisation = [torch.tensor(each, device=self.device).view(1, 3, 1, 1) for each in values]

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

    @property
    def eight_bit(self) -> bool:
        """Whether batches hold pictures as they are before they are normalised: where the device is not the one that made them."""
        return self.device.type == "cuda"

    def batches(self, batches: Iterator[Batch], on_host: Sequence[str] = ()) -> Iterator[Batch]:
        """Return the batches with tensors on a GPU, copied there while the step before runs; on a CPU as they are.

        The streams ``on_host`` stay arrays.
        """
        if self.device.type != "cuda":
            return batches
        return one_ahead(batches, CopyToDevice(self.device, on_host))

    def tensor(self, array: np.ndarray | Tensor) -> Tensor:
        """Return ``array`` on the device; pictures uint8 ``[B,H,W,3]`` normalised, float32 ``[B,3,H,W]``."""
        if isinstance(array, np.ndarray):
            array = torch.from_numpy(np.ascontiguousarray(array))
        tensor = array.to(self.device, non_blocking=True)
        if tensor.dtype == torch.uint8 and tensor.dim() == 4 and tensor.shape[3] == 3:
            mean, std = self._normalisation
            tensor = (tensor.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) - mean) / std
        return tensor

    def masks(
        self,
        network: nn.Module,
        purpose: str,
        clock: Clock,
        batch: int,
        size: Size | None = None,
        pooled: bool = False,
        streams: int = 1,
    ) -> list[Tensor]:
        """Return the dropout masks of one forward pass, drawn on the host when ``deterministic_dropout`` is on, else none.

        Each group draws for its part of the ``batch`` images. Those are ``streams`` batches, one after the other, of which every
        group has a part; one batch lies group by group (``common/methods/groups.py``).

        Otherwise PyTorch draws them itself, from a generator that is set anew for every pass, so that resuming repeats them.
        Masks of single elements need the images' ``size`` and whether the pass is ``pooled``.
        """
        trainer, groups = self.config.trainer, self.processes.groups
        keys = [
            group_generator(trainer.seed, f"dropout {purpose}", clock.epoch, clock.step, number)
            for number in groups.numbers
        ]
        if not trainer.deterministic_dropout:
            torch.manual_seed(int(keys[0].integers(2**63)))
            return []
        sizes = map_sizes(self.config.network, size, pooled) if size else None
        drawn = [draw_masks(network.dropouts, batch // groups.per_process, rng, sizes) for rng in keys]
        return [self.tensor(by_stream(masks, streams)) for masks in zip(*drawn)]
