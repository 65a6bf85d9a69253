"""U2PL in MindSpore; the PyTorch file of the same name mirrors this one.

    L = L_sup + unsup_weight * L_unsup + contrastive.weight * L_contra

L_sup: cross entropy or OHEM of the labelled images. L_unsup: cross entropy of the mixed unlabelled images against the eval-mode
teacher's labels, without the pixels of highest entropy, times (all pixels / kept pixels). L_contra: anchors pulled to their class
mean, pushed from a memory bank of unreliable pixels. The teacher is an EMA of the student.

Source: ``specs/u2pl.md`` sections 4-9; presets and switches: section 18 and ``common/methods/u2pl/u2pl.py``.

Networks and losses are compiled one by one; the teacher runs outside of what is differentiated. The host sees the pseudo-label
(where ClassMix draws its classes), counts and thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from common.arrays import IGNORE, Size
from common.config.schema import ExperimentConfig
from common.groups import PerGroup
from common.methods.interface import Batch, Clock
from common.methods.u2pl.u2pl import Draws, StepDraws
from mindspore_impl.methods.base import KeptTensor, Outputs, TeacherMethod
from mindspore_impl.methods.u2pl.contrastive import ContrastiveResult, contrastive_loss, label_maps, negative_keys
from mindspore_impl.methods.u2pl.memory_bank import MemoryBank
from mindspore_impl.mixing import mix
from mindspore_impl.pseudo_labels import arg_max, drop_unreliable, entropy, percentile, unsupervised_loss
from mindspore_impl.resize import nearest_floor, resize
from mindspore_impl.session import Session


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
        low, high = (percentile(uncertainty, p, valid) for p in (low_percent, 100 - percent))
    small, small_valid = nearest_floor(uncertainty, size), nearest_floor(pseudo_label, size) != IGNORE
    labelled = nearest_floor(labels, size) != IGNORE
    return ops.cat([labelled, (small <= low) & small_valid]), ops.cat([labelled, (small >= high) & small_valid])


@dataclass
class Pixels:
    """What the contrastive term of a group looks at, all without gradient; as :func:`contrastive_loss` takes it.

    ``new_keys`` are how many keys of each class all groups have given to the bank in this step.
    """

    teacher_representation: Tensor
    probabilities: Tensor
    maps: Tensor
    low_mask: Tensor
    high_mask: Tensor
    labelled: int
    new_keys: list[int] = field(default_factory=list)


class U2PL(TeacherMethod):
    """Student, EMA teacher and memory bank."""

    def __init__(self, config: ExperimentConfig, session: Session) -> None:
        super().__init__(config, session)
        width, contrastive = config.network.representation, self.settings.contrastive
        self.bank = self.keep(MemoryBank(self.settings.queue_sizes(self.classes), width))
        self.prototype = None
        if contrastive.anchor_ema:
            start = ops.zeros((self.classes, contrastive.num_queries, width), ms.float32)
            self.prototype = self.keep(KeptTensor("prototype", start))

    def step(self, batch: Batch, clock: Clock, draws: Draws | PerGroup | None = None) -> dict[str, float]:
        """Run one optimiser step and return the loss terms as they enter the sum (section 5)."""
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
            idle = ops.zeros((), ms.float32)
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
            uncertainty = entropy(ops.softmax(resize(teacher["logits"][len(labels) :], size), 1))
            reliable, _ = drop_unreliable(uncertainty, pseudo_label, settings.percent_kept(clock))
            probabilities = ops.softmax(teacher["logits"], 1)
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

        return self.optimizer.differentiate(terms)

    def _mixed(self, images: Tensor, logits: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return unlabelled images and the eval-mode teacher's labels, mixed if this step mixes (sections 5.3, 5.4, 6)."""
        pseudo_label = arg_max(logits, 1).astype(ms.uint8)
        classmix = self.settings.mixing == "classmix"  # the other ways look at the size only
        masks = draws.mix_masks(pseudo_label.asnumpy() if classmix else np.empty(pseudo_label.shape, np.uint8))
        if masks is None:
            return images, pseudo_label
        masks = self.session.tensor(masks)
        if self.settings.mixing == "cutout":
            return mix(images, masks, 0.0), mix(pseudo_label, masks, IGNORE)
        return mix(images, masks, "partner"), mix(pseudo_label, masks, "partner")

    def pixels(
        self,
        teacher_representation: Tensor,
        probabilities: Tensor,
        labels: Tensor,
        pseudo_label: Tensor,
        uncertainty: Tensor,
        clock: Clock,
        among: Tensor | None = None,
    ) -> Pixels:
        """Return what the contrastive term looks at; the teacher's maps are of the labelled images and then of the others."""
        settings, size = self.settings.contrastive, teacher_representation.shape[2:]
        percent = self.settings.entropy_percent(clock)
        low, high = reliability_masks(uncertainty, labels, pseudo_label, percent, settings.anchor_entropy, size, among)
        if not settings.negative_high_entropy:
            high[len(labels) :] = True
        smaller = (nearest_floor(part, size) for part in (labels, pseudo_label))
        maps = ops.cat([label_maps(part, self.classes, settings.label_encoding) for part in smaller])
        return Pixels(teacher_representation, probabilities, maps, low, high, len(labels))

    def append_keys(self, pixels: PerGroup) -> None:
        """Give the bank the negative keys of all groups, one group after the other, before any group draws from it."""
        settings = self.settings.contrastive
        own = [
            negative_keys(p.teacher_representation, p.probabilities, p.maps, p.high_mask, p.labelled, settings)
            for p in pixels
        ]
        if self.processes.count > 1:
            own = self.processes.rows([list(keys) for keys in own])
        numbers = []
        for class_id, keys in enumerate(zip(*own)):
            for rows in keys:
                self.bank.append(class_id, rows)
            numbers.append(sum(map(len, keys)))
        for part in pixels:
            part.new_keys = numbers

    def contrastive(self, representation: Tensor, pixels: PerGroup, clock: Clock, draws: PerGroup) -> PerGroup:
        """Return the unweighted contrastive loss of every own group; with ``anchor_ema`` the prototypes move on."""
        settings, prototype = self.settings, self.prototype.value if self.prototype else None

        def loss(representation: Tensor, part: Pixels, draws: Draws) -> ContrastiveResult:
            return contrastive_loss(
                representation, part.teacher_representation, part.probabilities, part.maps, part.low_mask,
                part.high_mask, part.labelled, self.bank, settings.contrastive, draws, prototype,
                settings.prototype_decay(clock), part.new_keys,
            )  # fmt: skip

        results = self.groups.each(loss, representation, pixels, draws)
        if prototype is not None:
            self._move_prototypes([result.prototype for result in results if result.prototype is not None])
        return PerGroup(result.loss for result in results)

    def _move_prototypes(self, moved: list[Tensor]) -> None:
        """Take the mean over the groups that have moved a class's prototypes; where no group has any, all stay."""
        parts = ops.stack([ops.zeros_like(self.prototype.value), *moved])
        counts = (parts != 0).any((2, 3)).astype(ms.float32).sum(0)
        moved = ms.Tensor(len(moved), ms.float32)
        sums, counts, groups = (self.processes.sum(part) for part in (parts.sum(0), counts, moved))
        if groups:
            self.prototype.value = sums / counts.clamp(min=1).reshape(-1, 1, 1)
