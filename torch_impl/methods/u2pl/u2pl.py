"""U2PL in PyTorch; the MindSpore file of the same name mirrors this one.

    L = L_sup + unsup_weight * L_unsup + contrastive.weight * L_contra

L_sup: cross entropy or OHEM of the labelled images. L_unsup: cross entropy of the mixed unlabelled images against the eval-mode
teacher's labels, without the pixels of highest entropy, times (all pixels / kept pixels). L_contra: anchors pulled to their class
mean, pushed from a memory bank of unreliable pixels. The teacher is an EMA of the student.

Source: the authors' ``train_semi.py``; presets and switches: ``common/methods/u2pl/u2pl.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.arrays import IGNORE
from common.methods.groups import PerGroup
from common.methods.interface import Batch, Clock
from common.methods.u2pl.u2pl import Draws, StepDraws
from torch_impl.methods.base import Outputs
from torch_impl.methods.u2pl.teacher_and_bank import Pixels, TeacherAndBank
from torch_impl.mixing import mix
from torch_impl.pseudo_labels import arg_max, drop_unreliable, entropy, kept_share, unsupervised_loss
from torch_impl.resize import resize


class U2PL(TeacherAndBank):
    """U2PL's step."""

    def step(self, batch: Batch, clock: Clock, draws: Draws | PerGroup | None = None) -> dict[str, float]:
        """Run one optimiser step and return the loss terms as they enter the sum and ``kept``, the share of pseudo-labels."""
        images, labels = self.labelled(batch)
        if self.settings.semi_supervised(clock):
            self.copy_student(clock)
            seed = self.config.trainer.seed
            draws = self.groups.draws(draws, lambda group: StepDraws(self.settings, seed, clock, group))
            unlabelled = self.session.tensor(batch["unlabelled"]["image"])
            losses = self._losses(images, labels, unlabelled, clock, draws)
        else:
            losses = self._supervised_losses(images, labels, clock)
        losses = self.apply_gradients(losses, batch, clock)
        self.move_teacher(clock)
        return losses

    def _supervised_losses(self, images: Tensor, labels: Tensor, clock: Clock) -> dict[str, float]:
        """Warm-up: the student learns from labels, the teacher's BatchNorm sees the same images."""
        self.forward("teacher", images, clock, wanted=())

        def terms(outputs: Outputs, labels: Tensor) -> dict[str, Tensor]:
            # With a zero gradient, not none, the representation head still feels weight decay, as in the released program.
            idle = outputs["representation"].sum() * 0
            return {"sup": self.supervised(outputs, labels), "unsup": idle, "contra": idle}

        return self.optimizer.differentiate(
            lambda: self.groups.mean(terms, self.forward("student", images, clock), labels)
        )

    def _losses(
        self, images: Tensor, labels: Tensor, unlabelled: Tensor, clock: Clock, draws: PerGroup
    ) -> dict[str, float]:
        settings, size = self.settings, labels.shape[1:]
        logits = self.forward("teacher", unlabelled, clock, train=False, wanted=("logits",))["logits"]
        unlabelled, pseudo_label = zip(*self.groups.each(self._mixed, unlabelled, resize(logits, size), draws))
        together, pseudo_label = self.together(images, self.whole(unlabelled)), PerGroup(pseudo_label)
        teacher = self.forward("teacher", together, clock, wanted=("logits", "representation"))

        def targets(teacher: Outputs, labels: Tensor, pseudo_label: Tensor) -> tuple[Tensor, Pixels]:
            uncertainty = entropy(resize(teacher["logits"][len(labels) :], size).softmax(1))
            reliable, _ = drop_unreliable(uncertainty, pseudo_label, settings.percent_kept(clock))
            probabilities = teacher["logits"].softmax(1)
            return reliable, self.pixels(
                teacher["representation"], probabilities, labels, pseudo_label, uncertainty, clock
            )

        reliable, pixels = map(PerGroup, zip(*self.groups.each(targets, teacher, labels, pseudo_label)))
        self.append_keys(pixels)

        def terms() -> dict[str, Tensor]:
            outputs = self.forward("student", together, clock)
            contrastive = self.contrastive(outputs["representation"], pixels, clock, draws)
            return self.groups.mean(group_terms, outputs, labels, reliable, contrastive)

        def group_terms(outputs: Outputs, labels: Tensor, reliable: Tensor, contrastive: Tensor) -> dict[str, Tensor]:
            scores = resize(outputs["logits"][len(labels) :], size)
            return {
                "sup": self.supervised(outputs, labels),
                "unsup": settings.unsup_weight * unsupervised_loss(scores, reliable),
                "contra": settings.contrastive.weight * contrastive,
            }

        return self.optimizer.differentiate(terms, shown=lambda: {"kept": self.groups.mean(kept_share, reliable)})

    def _mixed(self, images: Tensor, logits: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return unlabelled images and the eval-mode teacher's labels, mixed if this step mixes."""
        pseudo_label = arg_max(logits, 1).to(torch.uint8)
        masks = draws.mix_masks(pseudo_label.cpu().numpy())
        if masks is None:
            return images, pseudo_label
        masks = self.session.tensor(masks)
        if self.settings.mixing == "cutout":
            return mix(images, masks, 0.0), mix(pseudo_label, masks, IGNORE)
        return mix(images, masks, "partner"), mix(pseudo_label, masks, "partner")
