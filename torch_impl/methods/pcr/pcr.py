"""PCR in PyTorch; the MindSpore file of the same name mirrors this one.

    L = L_lin^l + omega * L_pro^l + lambda * (L_lin^u + omega * L_pro^u)

L_lin^l: cross entropy or OHEM of the labelled images (linear predictor). L_lin^u: cross entropy of the CutMix-ed unlabelled
images against the eval-mode teacher's labels of confidence >= tau. L_pro^l, L_pro^u: the same targets for the prototype
predictor (``torch_impl/methods/pcr/prototypes.py``) at one pixel of every cell of a grid. The prototypes follow the features of their
pixels by a moving average, the teacher follows the student.

The authors released no training program: ``docs/methods/pcr.md`` says what is theirs, what is U2PL's and what is this
project's choice, each a switch of ``common/methods/pcr/pcr.py``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.arrays import IGNORE, Size
from common.config.schema import ExperimentConfig
from common.methods.groups import PerGroup
from common.methods.interface import Batch, Clock, LabelledImages
from common.methods.pcr.first_prototypes import first_prototypes, read_prototypes
from common.methods.pcr.pcr import Draws, StepDraws, check_crop
from torch_impl.losses import cross_entropy
from torch_impl.methods.base import KeptTensor, Outputs, TeacherMethod
from torch_impl.methods.pcr.prototypes import pixel_features, pixel_labels, prototype_sums, updated_prototypes
from torch_impl.mixing import mix
from torch_impl.networks.prototype_head import prototype_logits
from torch_impl.pseudo_labels import (
    confident_labels,
    drop_unreliable,
    entropy,
    kept_cross_entropy,
    kept_share,
    unsupervised_loss,
)
from torch_impl.resize import resize
from torch_impl.session import Session
from torch_impl.teacher import RUNNING, update_buffers


def consistency_loss(logits: Tensor, labels: Tensor, denominator: str) -> Tensor:
    """Return the cross entropy of ``logits`` ``[N,K,...]``, summed over labelled pixels, over their number or that of ``all``."""
    divisor = labels.numel() if denominator == "all" else (labels != IGNORE).sum().clamp(min=1)
    return kept_cross_entropy(logits, labels, divisor)


class PCR(TeacherMethod):
    """Student with prototypes and EMA teacher."""

    def __init__(self, config: ExperimentConfig, session: Session) -> None:
        check_crop(config)
        super().__init__(config, session)
        self.shape = tuple(self.student.prototype_grid().shape)
        won = torch.zeros(self.shape[:2], dtype=torch.int64, device=session.device)
        self.pixels_won = self.keep(KeptTensor("prototypes.pixels", won))
        if self.settings.proto_init == "file":
            self.set_prototypes(read_prototypes(self.settings, self.shape))

    def before_epoch(self, clock: Clock, labelled: LabelledImages) -> list[str]:
        """Make the first prototypes when their epoch begins, from the eval-mode student's features."""
        if self.settings.proto_init == "file" or clock.epoch != self.settings.proto_epoch:
            return []
        prototypes, notes = np.zeros(tuple(self.student.prototypes.shape), np.float32), []
        if self.processes.index == 0:
            predictor = self.predictor("student")
            maps = ((predictor.features(image[None])[0], label) for image, label in labelled)
            prototypes, note = first_prototypes(self.settings, maps, self.shape, self.config.trainer.seed)
            notes = [note]
        self.set_prototypes(self.processes.from_first(prototypes))
        return notes

    def set_prototypes(self, prototypes: np.ndarray) -> None:
        """Give student and teacher these prototypes ``[K*M,C]``."""
        for network in (self.student, self.teacher):
            network.prototypes.copy_(self.session.tensor(prototypes))

    def step(self, batch: Batch, clock: Clock, draws: Draws | PerGroup | None = None) -> dict[str, float]:
        """Run one optimiser step and return the loss terms as they enter the sum and ``kept``, the share of pseudo-labels."""
        settings, seed = self.settings, self.config.trainer.seed
        images, labels = self.labelled(batch)
        draws = self.groups.draws(draws, lambda group: StepDraws(settings, seed, clock, group))
        target = None
        if settings.semi_supervised(clock):
            self.copy_student(clock)
            unlabelled = self.session.tensor(batch["unlabelled"]["image"])
            mixed, pseudo_label, confidence = self._mixed(unlabelled, labels.shape[1:], clock, draws)
            images = self.together(images, mixed)
            target = confident_labels(pseudo_label, confidence, settings.confidence_threshold)
        if settings.teacher_bn == "forward":
            looks = target is not None and settings.unsup_filter == "entropy_drop"
            teacher = self.forward("teacher", images, clock, wanted=("logits",) if looks else ())
            if looks:
                target = self.groups.each(self._reliable, teacher["logits"], pseudo_label, clock)
        losses, upkeep = self._differentiate(images, labels, target, clock, draws)
        losses = self.apply_gradients(losses, batch, clock)
        self._move_prototypes(*upkeep)
        self.move_teacher(clock)
        return losses

    def _reliable(self, logits: Tensor, pseudo_label: Tensor, clock: Clock) -> Tensor:
        """Return the labels without the pixels of highest entropy in the teacher's train-mode pass (``entropy_drop``)."""
        scores = resize(logits[-len(pseudo_label) :], pseudo_label.shape[1:])
        return drop_unreliable(entropy(scores.softmax(1)), pseudo_label, self.settings.percent_kept(clock))[0]

    def _differentiate(
        self, images: Tensor, labels: Tensor, target: Tensor | PerGroup | None, clock: Clock, draws: PerGroup
    ) -> tuple[dict[str, float], tuple[Tensor, Tensor] | tuple[()]]:
        """Return the loss terms, gradients being kept, and what the prototypes' upkeep needs (nothing where there is none)."""
        settings, upkeep = self.settings, []

        def terms(outputs: Outputs, labels: Tensor, target: Tensor | None, draws: Draws) -> dict[str, Tensor]:
            size = labels.shape[1:]
            losses = {
                name: torch.zeros((), device=images.device) for name in ("sup", "sup_proto", "unsup", "unsup_proto")
            }
            losses["sup"] = self.supervised(outputs, labels)
            if target is not None:
                scores = resize(outputs["logits"][len(labels) :], size)
                losses["unsup"] = settings.unsup_weight * self._unsupervised(scores, target)
            if settings.with_prototypes(clock):
                weighted, counted = self._prototype_terms(outputs["features"], labels, target, draws.pixels(size))
                losses.update(weighted)
                upkeep.append(counted)
            return losses

        losses = self.optimizer.differentiate(
            lambda: self.groups.mean(terms, self.forward("student", images, clock), labels, target, draws),
            shown=lambda: {} if target is None else {"kept": self.groups.mean(kept_share, target)},
        )
        return losses, tuple(self.processes.sum(sum(parts)) for parts in zip(*upkeep))

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

    def _mixed(self, images: Tensor, size: Size, clock: Clock, draws: PerGroup) -> list[Tensor]:
        """Return unlabelled images, the eval-mode teacher's labels and their confidence, mixed if this step mixes."""
        logits = self.forward("teacher", images, clock, train=False, wanted=("logits",))["logits"]
        confidence, pseudo_label = resize(logits, size).softmax(1).max(1)

        def mixed(draws: Draws, *parts: Tensor) -> tuple[Tensor, ...]:
            masks = draws.mix_masks(len(parts[0]), size)
            if masks is None:
                return parts
            masks = self.session.tensor(masks)
            return tuple(mix(part, masks, "partner") for part in parts)

        groups = self.groups.each(mixed, draws, images, pseudo_label.to(torch.uint8), confidence)
        return [self.whole(parts) for parts in zip(*groups)]

    def _move_prototypes(self, sums: Tensor | None = None, counts: Tensor | None = None) -> None:
        """Upkeep after the step, which itself has seen the old prototypes."""
        if sums is None or not self.settings.proto_update:
            return
        moved = updated_prototypes(self.student.prototype_grid(), sums, counts, self.settings.proto_momentum)
        self.student.prototypes.copy_(moved.flatten(0, 1))
        self.pixels_won.value += counts

    def update_teacher(self, decay: float) -> None:
        """Move parameters and prototypes; the running statistics, if the teacher has no train-mode pass."""
        super().update_teacher(decay)
        update_buffers(self.teacher, self.student, decay, ("prototypes",))
        if self.settings.teacher_bn != "forward":
            update_buffers(self.teacher, self.student, decay if self.settings.teacher_bn == "ema" else 0.0, RUNNING)
