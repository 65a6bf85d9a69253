"""U2PL in PyTorch; the MindSpore file of the same name mirrors this one.

    L = L_sup + unsup_weight * L_unsup + contrastive.weight * L_contra

L_sup: cross entropy or OHEM of the labelled images. L_unsup: cross entropy of the mixed unlabelled images against the eval-mode
teacher's labels, without the pixels of highest entropy, times (all pixels / kept pixels). L_contra: anchors pulled to their class
mean, pushed from a memory bank of unreliable pixels. The teacher is an EMA of the student.

Source: ``specs/u2pl.md`` sections 4-9; presets and switches: section 18 and ``common/methods/u2pl/u2pl.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.arrays import IGNORE, Size
from common.config.schema import ExperimentConfig
from common.methods.interface import Batch, Clock
from common.methods.u2pl.u2pl import ContrastiveDraws, Draws, StepDraws
from torch_impl.methods.base import KeptTensor, TeacherMethod
from torch_impl.methods.u2pl.contrastive import contrastive_loss, label_maps
from torch_impl.methods.u2pl.memory_bank import MemoryBank
from torch_impl.mixing import mix
from torch_impl.pseudo_labels import arg_max, drop_unreliable, entropy, percentile, unsupervised_loss
from torch_impl.resize import nearest, resize
from torch_impl.session import Session


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
    small, small_valid = nearest(uncertainty, size), nearest(pseudo_label, size) != IGNORE
    labelled = nearest(labels, size) != IGNORE
    return torch.cat([labelled, (small <= low) & small_valid]), torch.cat([labelled, (small >= high) & small_valid])


class U2PL(TeacherMethod):
    """Student, EMA teacher and memory bank."""

    def __init__(self, config: ExperimentConfig, session: Session) -> None:
        super().__init__(config, session)
        width, contrastive = config.network.representation, self.settings.contrastive
        self.bank = self.keep(MemoryBank(self.settings.queue_sizes(self.classes), width, session.device))
        self.prototype = None
        if contrastive.anchor_ema:
            start = torch.zeros((self.classes, contrastive.num_queries, width), device=session.device)
            self.prototype = self.keep(KeptTensor("prototype", start))

    def step(self, batch: Batch, clock: Clock, draws: Draws | None = None) -> dict[str, float]:
        """Run one optimiser step and return the loss terms as they enter the sum (section 5)."""
        images, labels = self.labelled(batch)
        if self.settings.semi_supervised(clock):
            self.copy_student(clock)
            draws = draws or StepDraws(self.settings, self.config.trainer.seed, clock)
            unlabelled = self.session.tensor(batch["unlabelled"]["image"])
            losses = self._losses(images, labels, unlabelled, clock, draws)
        else:
            losses = self._supervised_losses(images, labels, clock)
        self.apply_gradients(losses, batch, clock)
        self.move_teacher(clock)
        return losses

    def _supervised_losses(self, images: Tensor, labels: Tensor, clock: Clock) -> dict[str, float]:
        """Warm-up: the student learns from labels, the teacher's BatchNorm sees the same images."""
        self.forward("teacher", images, clock, wanted=())

        def terms() -> dict[str, Tensor]:
            outputs = self.forward("student", images, clock)
            # With a zero gradient, not none, the representation head still feels weight decay, as in the released program.
            idle = outputs["representation"].sum() * 0
            return {"sup": self.supervised(outputs, labels), "unsup": idle, "contra": idle}

        return self.optimizer.differentiate(terms)

    def _losses(
        self, images: Tensor, labels: Tensor, unlabelled: Tensor, clock: Clock, draws: Draws
    ) -> dict[str, float]:
        settings, size, count = self.settings, labels.shape[1:], len(images)
        unlabelled, pseudo_label = self._mixed(unlabelled, size, clock, draws)
        together = torch.cat([images, unlabelled])
        teacher = self.forward("teacher", together, clock, wanted=("logits", "representation"))
        probabilities = teacher["logits"].softmax(1)
        uncertainty = entropy(resize(teacher["logits"][count:], size).softmax(1))
        reliable, _ = drop_unreliable(uncertainty, pseudo_label, settings.percent_kept(clock))

        def terms() -> dict[str, Tensor]:
            outputs = self.forward("student", together, clock)
            scores = resize(outputs["logits"][count:], size)
            losses = {
                "sup": self.supervised(outputs, labels),
                "unsup": settings.unsup_weight * unsupervised_loss(scores, reliable),
            }
            losses["contra"] = settings.contrastive.weight * self._contrastive(
                outputs["representation"], teacher["representation"], probabilities,
                labels, pseudo_label, uncertainty, clock, draws,
            )  # fmt: skip
            return losses

        return self.optimizer.differentiate(terms)

    def _mixed(self, images: Tensor, size: Size, clock: Clock, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return unlabelled images and the eval-mode teacher's labels, mixed if this step mixes (sections 5.3, 5.4, 6)."""
        logits = self.forward("teacher", images, clock, train=False, wanted=("logits",))["logits"]
        pseudo_label = arg_max(resize(logits, size), 1).to(torch.uint8)
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
            draws, self.prototype.value if self.prototype else None, self.settings.prototype_decay(clock),
        )  # fmt: skip
        if result.prototype is not None:
            self.prototype.value = result.prototype
        return result.loss
