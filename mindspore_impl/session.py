"""What every method needs to run in MindSpore: device, threads, networks with their initial values, tensors of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from common.arrays import Size
from common.checkpoints.backbone import load_backbone
from common.config.schema import ExperimentConfig
from common.methods.groups import by_stream
from common.methods.interface import Batch, Clock
from common.networks.dropout import draw_masks
from common.networks.initial import initial_tensors
from common.networks.plan import map_sizes
from common.rng import group_generator
from mindspore_impl.checkpoint import load_network, network_tensors
from mindspore_impl.device import choose_device, processors
from mindspore_impl.networks import build_network
from mindspore_impl.processes import Processes


class Session:
    """The MindSpore side of one run: where tensors live and how networks and dropout masks are made."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        # MindSpore starts its threads when a device is selected, for the processors that this thread may then use.
        with processors(config.trainer.threads):
            self.device = choose_device(config.trainer.device)
        self.processes = Processes(config.trainer.groups)
        self.notes: list[str] = []

    def network(self, role: str) -> nn.Cell:
        """Return the experiment's network on the device, with values drawn for ``role`` and the backbone file's, if any."""
        config = self.config.network
        network = build_network(config, len(self.config.dataset.classes))
        shapes = {name: tensor.shape for name, tensor in network_tensors(network).items()}
        values = initial_tensors(shapes, config, self.config.trainer.seed, role)
        if config.backbone_weights:
            self.notes.append(f"{role}: {load_backbone(values, config)}")
        load_network(network, values, f"the initial values of {role}")
        return network

    @property
    def eight_bit(self) -> bool:
        """Whether batches hold pictures as they are before they are normalised; here they never do."""
        return False

    def batches(self, batches: Iterator[Batch], on_host: Sequence[str] = ()) -> Iterator[Batch]:
        """Return the batches as they are: MindSpore copies them when it makes tensors of them."""
        return batches

    def tensor(self, array: np.ndarray) -> Tensor:
        """Return ``array`` on the device."""
        return ms.Tensor(np.ascontiguousarray(array))

    def masks(
        self,
        network: nn.Cell,
        purpose: str,
        clock: Clock,
        batch: int,
        size: Size | None = None,
        pooled: bool = False,
        streams: int = 1,
    ) -> list[Tensor]:
        """Return the dropout masks of one forward pass, drawn on the host whether ``deterministic_dropout`` is on or not.

        Each group draws for its part of the ``batch`` images. Those are ``streams`` batches, one after the other, of which every
        group has a part; one batch lies group by group (``common/methods/groups.py``).

        MindSpore's own draws cannot be repeated when a run is resumed. Masks of single elements need the images' ``size``
        and whether the pass is ``pooled``.
        """
        seed, groups = self.config.trainer.seed, self.processes.groups
        keys = [
            group_generator(seed, f"dropout {purpose}", clock.epoch, clock.step, number) for number in groups.numbers
        ]
        sizes = map_sizes(self.config.network, size, pooled) if size else None
        drawn = [draw_masks(network.dropouts, batch // groups.per_process, rng, sizes) for rng in keys]
        return [self.tensor(by_stream(masks, streams)) for masks in zip(*drawn)]
