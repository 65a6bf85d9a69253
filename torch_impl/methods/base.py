"""What all methods share: networks, optimisers, passes, the supervised loss, saving; the MindSpore file mirrors this one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from common.config.schema import ExperimentConfig
from common.methods.groups import Groups, by_group
from common.methods.interface import Batch, Clock, LabelledImages, NonFiniteLoss, not_finite
from torch_impl.checkpoint import load_network, network_tensors
from torch_impl.losses import supervised_loss
from torch_impl.networks.deeplab import Wanted
from torch_impl.optimizer import Optimizer
from torch_impl.passes import Passes
from torch_impl.predictor import TorchPredictor
from torch_impl.processes import Processes
from torch_impl.resize import resize
from torch_impl.session import Session
from torch_impl.teacher import RUNNING, update_buffers, update_teacher

Outputs = dict[str, Tensor]
"""What a network gives, by name; see ``torch_impl/networks/deeplab.py``."""

Part = TypeVar("Part")


class Method:
    """A training method without its ``step``; see :class:`common.methods.interface.Method`.

    ``roles`` are its networks, ``trained`` those with an optimiser. The others run without gradient.
    ``host_streams``: those whose arrays a step needs on the host.
    """

    roles: ClassVar[tuple[str, ...]] = ("student",)
    trained: ClassVar[tuple[str, ...]] = ("student",)
    host_streams: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: ExperimentConfig, session: Session) -> None:
        self.config, self.session = config, session
        self.settings = config.method
        self.classes = len(config.dataset.classes)
        self.passes = Passes(config.trainer)
        self.nets = {role: self.passes.prepared(session.network(role)) for role in self.roles}
        trainer = config.trainer
        self.optimizers = {
            role: Optimizer(self.nets[role], config.optimizer, trainer.accumulate, trainer.precision, session.processes)
            for role in self.trained
        }
        self.stepped = True
        self._kept: list = []

    @property
    def processes(self) -> Processes:
        """The processes of the run."""
        return self.session.processes

    @property
    def groups(self) -> Groups:
        """How a batch falls into groups, and which of them this process has."""
        return self.session.processes.groups

    @property
    def student(self) -> nn.Module:
        """The network of that role."""
        return self.nets["student"]

    @property
    def optimizer(self) -> Optimizer:
        """The student's."""
        return self.optimizers["student"]

    def keep(self, part: Part) -> Part:
        """Save ``part`` with the run and return it; it has ``state()`` and ``restore(state)``, with names of its own."""
        self._kept.append(part)
        return part

    @property
    def eight_bit(self) -> bool:
        """Whether batches hold 8-bit pictures, which the session normalises."""
        return self.session.eight_bit

    def batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Return the batches as the session hands them to the device; the streams ``host_streams`` stay arrays."""
        return self.session.batches(batches, self.host_streams)

    def before_epoch(self, clock: Clock, labelled: LabelledImages) -> list[str]:
        """Do nothing; see the interface."""
        return []

    def labelled(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return images ``[B,3,H,W]`` and labels ``[B,H,W]`` of the stream ``labelled``."""
        return tuple(self.session.tensor(batch["labelled"][name]) for name in ("image", "label"))

    def whole(self, pieces: Sequence[Tensor]) -> Tensor:
        """Return what each own group has as one batch."""
        return pieces[0] if len(pieces) == 1 else torch.cat(tuple(pieces))

    def together(self, *batches: Tensor) -> Tensor:
        """Return the batches ``[B,...]`` of several streams as one, group by group."""
        return torch.cat(batches if self.groups.per_process == 1 else by_group(batches, self.groups.per_process))

    def forward(
        self,
        role: str,
        images: Tensor,
        clock: Clock,
        purpose: str = "",
        train: bool = True,
        gradient: bool = True,
        pooled: bool = False,
        feature_masks: Sequence[np.ndarray] = (),
        wanted: Wanted = None,
    ) -> Outputs:
        """Run the network of ``role`` on ``images`` ``[B,3,H,W]`` and return its outputs.

        ``purpose`` tells the passes of one step apart, for their dropout masks; without it that is the role. ``train``: BatchNorm
        by the batch, and dropout. A pass has a gradient if that is wanted, the network is trained and the mode is ``train``.
        ``pooled`` and ``wanted``: see the network. With ``feature_masks`` come the outputs of 2B images, see ``DeepLab.perturbed``,
        of each group the clean ones and then the others.
        """
        network, masks, streams = self.nets[role].train(train), [], 2 if feature_masks else 1
        if train:
            count = len(images) * streams
            masks = self.session.masks(network, purpose or role, clock, count, images.shape[2:], pooled, streams)
        recorded = gradient and train and role in self.trained
        with torch.set_grad_enabled(recorded and torch.is_grad_enabled()):
            if feature_masks:
                feature_masks = [self.session.tensor(mask) for mask in feature_masks]
                outputs = self.passes.run_perturbed(network, images, feature_masks, masks)
                if self.groups.per_process == 1:
                    return outputs
                return {name: self.together(*output.chunk(2)) for name, output in outputs.items()}
            return self.passes.run(network, images, masks, pooled, wanted)

    def supervised(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Return a group's criterion of its first outputs, as many as there are ``labels`` ``[B,H,W]``, at their size."""
        logits, aux = (
            resize(outputs[name][: len(labels)], labels.shape[1:]) if name in outputs else None
            for name in ("logits", "aux")
        )
        return supervised_loss(self.config.criterion, logits, labels, aux)

    def apply_gradients(self, losses: dict[str, float], batch: Batch, clock: Clock) -> dict[str, float]:
        """Let the optimisers step by the gradients of all processes, and return the sums of their ``losses``.

        Raises :class:`common.methods.interface.NonFiniteLoss` instead, in every process, if a sum is not finite.
        """
        totals = self.processes.totals(losses)
        if not_finite(totals):
            raise NonFiniteLoss(self.processes.texts(not_finite(losses, batch)))
        self.stepped = all([optimizer.step(clock) for optimizer in self.optimizers.values()])
        return totals

    def networks(self) -> dict[str, dict[str, np.ndarray]]:
        """Return every network's tensors by role."""
        return {role: network_tensors(network) for role, network in self.nets.items()}

    def state(self) -> dict[str, np.ndarray]:
        """Return the optimisers' states, ``momentum.NAME`` or, of several networks, ``ROLE.momentum.NAME``, and what is kept."""
        state = {
            f"{self._prefix(role)}{name}": value
            for role, optimizer in self.optimizers.items()
            for name, value in optimizer.state().items()
        }
        for part in self._kept:
            state |= part.state()
        return state

    def restore(self, networks: dict[str, dict[str, np.ndarray]], state: dict[str, np.ndarray]) -> None:
        """Take back a saved run."""
        for role, network in self.nets.items():
            load_network(network, networks[role], role)
        for role, optimizer in self.optimizers.items():
            prefix = self._prefix(role)
            entries = {name: value for name, value in state.items() if name.startswith(prefix)}
            optimizer.restore({name.removeprefix(prefix): value for name, value in entries.items()})
        for part in self._kept:
            part.restore(state)

    def _prefix(self, role: str) -> str:
        return f"{role}." if len(self.trained) > 1 else ""

    def evaluated(self, clock: Clock) -> str:
        """The first network."""
        return self.roles[0]

    def predictor(self, role: str) -> TorchPredictor:
        """Return a predictor over the live network of ``role``."""
        return TorchPredictor(self.nets[role], self.session.device, self.config.evaluation.head)


class TeacherMethod(Method):
    """A student and a teacher that follows it; the settings are :class:`common.methods.teacher.TeacherSettings`."""

    roles = ("student", "teacher")

    @property
    def teacher(self) -> nn.Module:
        """The network of that role."""
        return self.nets["teacher"]

    def copy_student(self, clock: Clock) -> None:
        """Make the teacher the student's copy before this step, if the step begins with that."""
        if self.settings.copies_student(clock):
            self.update_teacher(0.0)
            if self.settings.copies_statistics():
                update_buffers(self.teacher, self.student, 0.0, RUNNING)

    def move_teacher(self, clock: Clock) -> None:
        """Let the teacher follow the student after this step, if the student has moved."""
        if self.stepped and self.settings.semi_supervised(clock):
            self.update_teacher(self.settings.update_decay(clock))

    def update_teacher(self, decay: float) -> None:
        """Move the teacher towards the student; a method may move buffers, too."""
        update_teacher(self.teacher, self.student, decay)

    def evaluated(self, clock: Clock) -> str:
        """The teacher, as soon as there is one."""
        return "teacher" if self.settings.semi_supervised(clock) else "student"


class KeptTensor:
    """A tensor that is saved with a run under ``name``; ``value`` may be replaced by one of the same shape."""

    def __init__(self, name: str, value: Tensor) -> None:
        self.name, self.value = name, value

    def state(self) -> dict[str, np.ndarray]:
        """Return the value by its name."""
        return {self.name: self.value.cpu().numpy().copy()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` returned."""
        self.value = torch.from_numpy(state[self.name].copy()).to(self.value)
