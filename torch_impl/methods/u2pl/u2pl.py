"""U2PL in PyTorch; the MindSpore file of the same name mirrors this one.

    L = L_sup + unsup_weight * L_unsup + contrastive.weight * L_contra

L_sup: cross entropy or OHEM of the labelled images. L_unsup: cross entropy of the mixed unlabelled images against the eval-mode
teacher's labels, without the pixels of highest entropy, times (all pixels / kept pixels). L_contra: anchors pulled to their class
mean, pushed from a memory bank of unreliable pixels. The teacher is an EMA of the student.

Source: ``specs/u2pl.md`` sections 4-9; presets and switches: section 18 and ``common/methods/u2pl/u2pl.py``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.arrays import Size
from common.config.schema import ExperimentConfig
from common.methods.interface import Batch, Clock, check_finite
from common.methods.u2pl.u2pl import ContrastiveDraws, Draws, StepDraws
from torch_impl.checkpoint import load_network, network_tensors
from torch_impl.losses import IGNORE, supervised_loss
from torch_impl.methods.u2pl.contrastive import contrastive_loss, label_maps
from torch_impl.methods.u2pl.memory_bank import MemoryBank
from torch_impl.mixing import mix
from torch_impl.optimizer import Optimizer
from torch_impl.predictor import TorchPredictor
from torch_impl.pseudo_labels import drop_unreliable, entropy, percentile, unsupervised_loss
from torch_impl.resize import nearest, resize
from torch_impl.session import Session
from torch_impl.teacher import RUNNING, update_buffers, update_teacher


def reliability_masks(
    uncertainty: Tensor,
    labels: Tensor,
    pseudo_label: Tensor,
    percent: float,
    anchor_entropy: str,
    size: Size,
    among: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the low and high entropy masks, bool ``[Bl+Bu,h,w]`` at ``size`` (section 5, item 9; 18.5).

    ``uncertainty`` ``[Bu,H,W]`` at full size gives the percentiles, over the pixels ``among`` (bool ``[Bu,H,W]``; without it,
    those with a pseudo-label); only the pixels of the small map are compared.
    """
    valid = (pseudo_label != IGNORE) if among is None else among
    low_percent = percent if anchor_entropy == "lowest" else 100 - percent
    low = high = 0.0
    if valid.any():
        low, high = (percentile(uncertainty[valid], p) for p in (low_percent, 100 - percent))
    small, small_valid = nearest(uncertainty, size), nearest(pseudo_label, size) != IGNORE
    labelled = nearest(labels, size) != IGNORE
    return torch.cat([labelled, (small <= low) & small_valid]), torch.cat([labelled, (small >= high) & small_valid])


class U2PL:
    """Student, EMA teacher and memory bank; implements :class:`common.methods.interface.Method`."""

    def __init__(self, config: ExperimentConfig, session: Session) -> None:
        self.config, self.session = config, session
        self.settings = config.method.resolved()
        self.classes = len(config.dataset.classes)
        self.student = session.network("student")
        self.teacher = session.network("teacher")
        self.optimizer = Optimizer(self.student, config.optimizer)
        queues = self.settings.queue_sizes(self.classes)
        self.bank = MemoryBank(queues, config.network.representation, session.device)
        self.prototype = None
        if self.settings.contrastive.anchor_ema:
            shape = (self.classes, self.settings.contrastive.num_queries, config.network.representation)
            self.prototype = torch.zeros(shape, device=session.device)

    def step(self, batch: Batch, clock: Clock, draws: Draws | None = None) -> dict[str, float]:
        """Run one optimiser step and return the loss terms as they enter the sum (section 5)."""
        images = self.session.tensor(batch["labelled"]["image"])
        labels = self.session.tensor(batch["labelled"]["label"])
        if clock.epoch < self.settings.sup_only_epochs:
            losses = self._supervised_losses(images, labels, clock)
        else:
            self._follow_student(clock)
            draws = draws or StepDraws(self.settings, self.config.trainer.seed, clock)
            unlabelled = self.session.tensor(batch["unlabelled"]["image"])
            losses = self._losses(images, labels, unlabelled, clock, draws)
        check_finite(losses, batch)
        self.optimizer.step(clock)
        if clock.epoch >= self.settings.sup_only_epochs:
            tied = self.settings.ema_first_epoch == "tied" and clock.epoch == self.settings.sup_only_epochs
            update_teacher(self.teacher, self.student, 0.0 if tied else self.settings.teacher_decay(clock))
        return losses

    def _supervised_losses(self, images: Tensor, labels: Tensor, clock: Clock) -> dict[str, float]:
        """Warm-up: the student learns from labels, the teacher's BatchNorm sees the same images."""
        with torch.no_grad():
            self._train_pass("teacher", images, clock)

        def terms() -> dict[str, Tensor]:
            outputs = self._train_pass("student", images, clock)
            # With a zero gradient, not none, the representation head still feels weight decay, as in the released program.
            idle = outputs["representation"].sum() * 0
            return {"sup": self._supervised(outputs, labels), "unsup": idle, "contra": idle}

        return self.optimizer.differentiate(terms)

    def _losses(
        self, images: Tensor, labels: Tensor, unlabelled: Tensor, clock: Clock, draws: Draws
    ) -> dict[str, float]:
        settings, size, count = self.settings, labels.shape[1:], len(images)
        unlabelled, pseudo_label = self._mixed(unlabelled, size, draws)
        together = torch.cat([images, unlabelled])
        with torch.no_grad():
            teacher = self._train_pass("teacher", together, clock)
            small_probabilities = teacher["logits"].softmax(1)
            uncertainty = entropy(resize(teacher["logits"][count:], size).softmax(1))
            reliable, _ = drop_unreliable(uncertainty, pseudo_label, settings.percent_kept(clock))

        def terms() -> dict[str, Tensor]:
            outputs = self._train_pass("student", together, clock)
            losses = {"sup": self._supervised({name: value[:count] for name, value in outputs.items()}, labels)}
            scores = resize(outputs["logits"][count:], size)
            losses["unsup"] = settings.unsup_weight * unsupervised_loss(scores, reliable)
            losses["contra"] = settings.contrastive.weight * self._contrastive(
                outputs["representation"], teacher["representation"], small_probabilities,
                labels, pseudo_label, uncertainty, clock, draws,
            )  # fmt: skip
            return losses

        return self.optimizer.differentiate(terms)

    def _train_pass(self, role: str, images: Tensor, clock: Clock, dropout: str = "") -> dict[str, Tensor]:
        network = getattr(self, role).train()
        return network(images, self.session.masks(network, dropout or role, clock, len(images), images.shape[2:]))

    def _supervised(self, outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        size = labels.shape[1:]
        aux = resize(outputs["aux"], size) if "aux" in outputs else None
        return supervised_loss(self.config.criterion, resize(outputs["logits"], size), labels, aux)

    def _mixed(self, images: Tensor, size: Size, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return unlabelled images and the eval-mode teacher's labels, mixed if this step mixes (sections 5.3, 5.4, 6)."""
        with torch.no_grad():
            pseudo_label = resize(self.teacher.eval()(images)["logits"], size).argmax(1).to(torch.uint8)
        masks = draws.mix_masks(pseudo_label.cpu().numpy())
        if masks is None:
            return images, pseudo_label
        masks = self.session.tensor(masks)
        if self.settings.mixing == "cutout":
            return mix(images, masks, 0.0), mix(pseudo_label, masks, IGNORE)
        return mix(images, masks, "partner"), mix(pseudo_label, masks, "partner")

    def _contrastive(
        self,
        representation: Tensor,
        teacher_representation: Tensor,
        probabilities: Tensor,
        labels: Tensor,
        pseudo_label: Tensor,
        uncertainty: Tensor,
        clock: Clock,
        draws: ContrastiveDraws,
        among: Tensor | None = None,
    ) -> Tensor:
        """Return the unweighted contrastive loss; the bank and, with ``anchor_ema``, the prototypes move on."""
        settings, size = self.settings.contrastive, representation.shape[2:]
        percent = self.settings.entropy_percent(clock)
        low, high = reliability_masks(uncertainty, labels, pseudo_label, percent, settings.anchor_entropy, size, among)
        if not settings.negative_high_entropy:
            high[len(labels) :] = True
        smaller = (nearest(part, size) for part in (labels, pseudo_label))
        encoding = settings.label_encoding, settings.processes
        maps = torch.cat([label_maps(part, self.classes, *encoding) for part in smaller])
        result = contrastive_loss(
            representation, teacher_representation, probabilities, maps, low, high, len(labels), self.bank, settings,
            draws, self.prototype, self.settings.prototype_decay(clock),
        )  # fmt: skip
        if result.prototype is not None:
            self.prototype = result.prototype
        return result.loss

    def _follow_student(self, clock: Clock) -> None:
        """Copy the student into the teacher where the first semi-supervised epoch asks for it (18.9)."""
        tied = self.settings.ema_first_epoch == "tied"
        if clock.epoch == self.settings.sup_only_epochs and (tied or clock.step == 0):
            update_teacher(self.teacher, self.student, 0.0)
            if self.settings.ema_first_statistics == "student":
                update_buffers(self.teacher, self.student, 0.0, RUNNING)

    def networks(self) -> dict[str, dict[str, np.ndarray]]:
        """Return the tensors of student and teacher."""
        return {"student": network_tensors(self.student), "teacher": network_tensors(self.teacher)}

    def state(self) -> dict[str, np.ndarray]:
        """Return momenta, queues and, with ``anchor_ema``, prototypes."""
        prototype = {} if self.prototype is None else {"prototype": self.prototype.cpu().numpy()}
        return self.optimizer.state() | self.bank.state() | prototype

    def restore(self, networks: dict[str, dict[str, np.ndarray]], state: dict[str, np.ndarray]) -> None:
        """Take back a saved run."""
        load_network(self.student, networks["student"], "student")
        load_network(self.teacher, networks["teacher"], "teacher")
        self.optimizer.restore(state)
        self.bank.restore(state)
        if self.prototype is not None:
            self.prototype = self.session.tensor(state["prototype"])

    def evaluated(self, clock: Clock) -> str:
        """The student during warm-up, the teacher from then on (section 9)."""
        return "student" if clock.epoch < self.settings.teacher_epoch() else "teacher"

    def predictor(self, role: str) -> TorchPredictor:
        """Return a predictor over the live network of ``role``."""
        return TorchPredictor(getattr(self, role), self.session.device)
