"""PCR in PyTorch; the MindSpore file of the same name mirrors this one.

    L = L_lin^l + omega * L_pro^l + lambda * (L_lin^u + omega * L_pro^u)

L_lin^l: cross entropy or OHEM of the labelled images (linear predictor). L_lin^u: cross entropy of the CutMix-ed unlabelled
images against the eval-mode teacher's labels of confidence >= tau. L_pro^l, L_pro^u: the same targets for the prototype
predictor (``torch_impl/methods/pcr/prototypes.py``) at one pixel of every cell of a grid. The prototypes follow the features of their
pixels by a moving average, the teacher follows the student.

Source: ``specs/pcr.md``; order of a step: section 4.3. The authors released no training program: section 10 lists what is
this project's choice, each a switch of ``common/methods/pcr/pcr.py``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.arrays import Size
from common.config.schema import ExperimentConfig
from common.methods.interface import Batch, Clock, LabelledImages, check_finite
from common.methods.pcr.first_prototypes import first_prototypes, read_prototypes
from common.methods.pcr.pcr import Draws, StepDraws, check_crop
from torch_impl.checkpoint import load_network, network_tensors
from torch_impl.losses import IGNORE, cross_entropy, supervised_loss
from torch_impl.methods.pcr.prototypes import pixel_features, pixel_labels, prototype_sums, updated_prototypes
from torch_impl.mixing import mix
from torch_impl.networks.prototype_head import prototype_logits
from torch_impl.optimizer import Optimizer
from torch_impl.predictor import TorchPredictor
from torch_impl.pseudo_labels import confident_labels, drop_unreliable, entropy, unsupervised_loss
from torch_impl.resize import resize
from torch_impl.session import Session
from torch_impl.teacher import RUNNING, update_buffers, update_teacher


def consistency_loss(logits: Tensor, labels: Tensor, denominator: str) -> Tensor:
    """Return the cross entropy of ``logits`` ``[N,K,...]``, summed over labelled pixels, over their number or that of ``all``."""
    loss = cross_entropy(logits, labels)
    return loss * (labels != IGNORE).sum() / labels.numel() if denominator == "all" else loss


class PCR:
    """Student with prototypes and EMA teacher; implements :class:`common.methods.interface.Method`."""

    def __init__(self, config: ExperimentConfig, session: Session) -> None:
        check_crop(config)
        self.config, self.session = config, session
        self.settings = config.method
        self.student = session.network("student")
        self.teacher = session.network("teacher")
        self.optimizer = Optimizer(self.student, config.optimizer)
        self.shape = tuple(self.student.prototype_grid().shape)
        self.pixels_won = np.zeros(self.shape[:2], np.int64)
        if self.settings.proto_init == "file":
            self.set_prototypes(read_prototypes(self.settings, self.shape))

    def before_epoch(self, clock: Clock, labelled: LabelledImages) -> list[str]:
        """Make the first prototypes when their epoch begins, from the eval-mode student's features (section 3.6)."""
        if self.settings.proto_init == "file" or clock.epoch != self.settings.proto_epoch:
            return []
        predictor = self.predictor("student")
        maps = ((predictor.features(image[None])[0], label) for image, label in labelled)
        prototypes, note = first_prototypes(self.settings, maps, self.shape, self.config.trainer.seed)
        self.set_prototypes(prototypes)
        return [note]

    def set_prototypes(self, prototypes: np.ndarray) -> None:
        """Give student and teacher these prototypes ``[K*M,C]``."""
        for network in (self.student, self.teacher):
            network.prototypes.copy_(self.session.tensor(prototypes))

    def step(self, batch: Batch, clock: Clock, draws: Draws | None = None) -> dict[str, float]:
        """Run one optimiser step and return the loss terms as they enter the sum (section 4.3)."""
        settings = self.settings
        images = self.session.tensor(batch["labelled"]["image"])
        labels = self.session.tensor(batch["labelled"]["label"])
        draws = draws or StepDraws(settings, self.config.trainer.seed, clock)
        target = None
        if settings.semi_supervised(clock):
            self._follow_student(clock)
            unlabelled = self.session.tensor(batch["unlabelled"]["image"])
            mixed, pseudo_label, confidence = self._mixed(unlabelled, labels.shape[1:], draws)
            images = torch.cat([images, mixed])
            target = confident_labels(pseudo_label, confidence, settings.confidence_threshold)
        if settings.teacher_bn == "forward":
            with torch.no_grad():
                teacher = self._train_pass("teacher", images, clock)["logits"][len(labels) :]
            if target is not None and settings.unsup_filter == "entropy_drop":
                uncertainty = entropy(resize(teacher, labels.shape[1:]).softmax(1))
                target, _ = drop_unreliable(uncertainty, pseudo_label, settings.percent_kept(clock))
        losses, upkeep = self._differentiate(images, labels, target, clock, draws)
        check_finite(losses, batch)
        self.optimizer.step(clock)
        self._move_prototypes(*upkeep)
        if target is not None:
            self._move_teacher(settings.teacher_decay(clock))
        return losses

    def _differentiate(
        self, images: Tensor, labels: Tensor, target: Tensor | None, clock: Clock, draws: Draws
    ) -> tuple[dict[str, float], tuple[Tensor, Tensor] | tuple[()]]:
        """Return the loss terms, gradients being kept, and what the prototypes' upkeep needs (nothing where there is none)."""
        settings, size, count, upkeep = self.settings, labels.shape[1:], len(labels), ()

        def terms() -> dict[str, Tensor]:
            nonlocal upkeep
            outputs = self._train_pass("student", images, clock)
            losses = {
                name: torch.zeros((), device=images.device) for name in ("sup", "sup_proto", "unsup", "unsup_proto")
            }
            losses["sup"] = self._supervised({name: value[:count] for name, value in outputs.items()}, labels)
            if target is not None:
                scores = resize(outputs["logits"][count:], size)
                losses["unsup"] = settings.unsup_weight * self._unsupervised(scores, target)
            if settings.with_prototypes(clock):
                weighted, upkeep = self._prototype_terms(outputs["features"], labels, target, draws.pixels(size))
                losses.update(weighted)
            return losses

        return self.optimizer.differentiate(terms), upkeep

    def _prototype_terms(
        self, features: Tensor, labels: Tensor, target: Tensor | None, pixels: np.ndarray
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Return the weighted prototype losses, and sums and counts of every prototype's pixels."""
        settings, split = self.settings, len(labels) * len(pixels)
        rows = pixel_features(features, pixels, labels.shape[1:])
        logits, match = prototype_logits(rows, self.student.prototype_grid(), *self.student.prototype_rule)
        selected = pixel_labels(labels if target is None else torch.cat([labels, target]), pixels)
        losses = {}
        if settings.proto_sup:
            losses["sup_proto"] = settings.proto_weight * cross_entropy(logits[:split], selected[:split])
        if target is not None:
            weight = settings.unsup_weight * settings.proto_weight
            losses["unsup_proto"] = weight * self._unsupervised(logits[split:], selected[split:])
        return losses, prototype_sums(rows, selected, match, self.shape[:2])

    def _unsupervised(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.settings.unsup_filter == "entropy_drop":
            return unsupervised_loss(logits, target)
        return consistency_loss(logits, target, self.settings.unsup_denominator)

    def _supervised(self, outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        size = labels.shape[1:]
        aux = resize(outputs["aux"], size) if "aux" in outputs else None
        return supervised_loss(self.config.criterion, resize(outputs["logits"], size), labels, aux)

    def _train_pass(self, role: str, images: Tensor, clock: Clock) -> dict[str, Tensor]:
        network = getattr(self, role).train()
        return network(images, self.session.masks(network, role, clock, len(images), images.shape[2:]))

    def _mixed(self, images: Tensor, size: Size, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Return unlabelled images, the eval-mode teacher's labels and their confidence, mixed if this step mixes."""
        with torch.no_grad():
            probabilities = resize(self.teacher.eval()(images)["logits"], size).softmax(1)
        confidence, pseudo_label = probabilities.max(1)
        parts = images, pseudo_label.to(torch.uint8), confidence
        masks = draws.mix_masks(len(images), size)
        if masks is None:
            return parts
        masks = self.session.tensor(masks)
        return tuple(mix(part, masks, "partner") for part in parts)

    def _move_prototypes(self, sums: Tensor | None = None, counts: Tensor | None = None) -> None:
        """Upkeep after the step, which itself has seen the old prototypes (section 3.6)."""
        if sums is None or not self.settings.proto_update:
            return
        moved = updated_prototypes(self.student.prototype_grid(), sums, counts, self.settings.proto_momentum)
        self.student.prototypes.copy_(moved.flatten(0, 1))
        self.pixels_won += counts.cpu().numpy()

    def _follow_student(self, clock: Clock) -> None:
        """Copy the student into the teacher where the first semi-supervised epoch asks for it (section 4.2)."""
        if self.settings.copies_student(clock):
            update_teacher(self.teacher, self.student, 0.0)
            update_buffers(self.teacher, self.student, 0.0, ("prototypes", *RUNNING))

    def _move_teacher(self, decay: float) -> None:
        update_teacher(self.teacher, self.student, decay)
        update_buffers(self.teacher, self.student, decay, ("prototypes",))
        if self.settings.teacher_bn != "forward":
            update_buffers(self.teacher, self.student, decay if self.settings.teacher_bn == "ema" else 0.0, RUNNING)

    def networks(self) -> dict[str, dict[str, np.ndarray]]:
        """Return the tensors of student and teacher, prototypes included."""
        return {"student": network_tensors(self.student), "teacher": network_tensors(self.teacher)}

    def state(self) -> dict[str, np.ndarray]:
        """Return momenta and how many pixels every prototype has won so far."""
        return self.optimizer.state() | {"prototypes.pixels": self.pixels_won.copy()}

    def restore(self, networks: dict[str, dict[str, np.ndarray]], state: dict[str, np.ndarray]) -> None:
        """Take back a saved run."""
        load_network(self.student, networks["student"], "student")
        load_network(self.teacher, networks["teacher"], "teacher")
        self.optimizer.restore(state)
        self.pixels_won = state["prototypes.pixels"].copy()

    def evaluated(self, clock: Clock) -> str:
        """The student during warm-up, the teacher from then on (section 7)."""
        return "teacher" if self.settings.semi_supervised(clock) else "student"

    def predictor(self, role: str) -> TorchPredictor:
        """Return a predictor over the live network of ``role``."""
        return TorchPredictor(getattr(self, role), self.session.device, self.config.evaluation.head)
