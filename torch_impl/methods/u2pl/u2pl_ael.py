"""U2PL with AEL in PyTorch; the MindSpore file of the same name mirrors this one.

    L = loss_scale * (L_sup + consistency_weight * (L_cons(labelled) + L_cons(unlabelled)) + contrastive.weight * L_contra)
    L_cons = sum_p w_p CE_p / sum_p w_p,  w_p = confidence_p ** confidence_gamma * [U_p > 1 - ((1 - c_k) / max(1 - c)) ** gamma]

c is the student's confidence in each class, k its class at pixel p, U uniform. Classes of low confidence are pasted into labelled
images (copy-paste), decide which image is mixed into an unlabelled one (CutMix) and are left out of L_cons less often (sampling).
Targets of L_cons are the teacher's classes. L_sup, L_contra and the EMA teacher are U2PL's.

Source: ``train.py`` of the authors' branch ``with_AEL``; switches, draws and banks: ``common/methods/u2pl/u2pl_ael.py``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.arrays import IGNORE, Size
from common.config.schema import ExperimentConfig
from common.loading.on_demand import ImagesOnDemand
from common.methods.groups import PerGroup
from common.methods.interface import Batch, Clock
from common.methods.u2pl.u2pl_ael import ClassBanks, Draws, StepDraws, keep_thresholds, paste_classes
from torch_impl.losses import true_class_probability, weighted_cross_entropy
from torch_impl.methods.base import Outputs
from torch_impl.methods.u2pl.teacher_and_bank import Pixels, TeacherAndBank
from torch_impl.mixing import cutmix
from torch_impl.pseudo_labels import arg_max, drop_unreliable, entropy, kept_share, percentile
from torch_impl.resize import resize
from torch_impl.session import Session


def class_confidence(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Return float32 ``[K]``: the mean probability of each class over the pixels labelled so, 0 for absent classes.

    ``logits`` ``[B,K,H,W]``, ``labels`` ``[B,H,W]``.
    """
    classes, valid = logits.shape[1], labels != IGNORE
    probability, labelled = true_class_probability(logits.detach(), labels)[valid].double(), labels[valid].long()
    sums, counts = torch.bincount(labelled, probability, classes), torch.bincount(labelled, minlength=classes)
    return (sums / counts.clamp(min=1)).float().cpu().numpy()


def drop_confident(uncertainty: Tensor, pseudo_label: Tensor, percent: float) -> tuple[Tensor, float]:
    """Return ``pseudo_label`` with pixels below the ``percent`` percentile of entropy set to 255, and that threshold.

    ``uncertainty`` and ``pseudo_label`` ``[B,H,W]``; the percentile runs over all pixels.
    """
    threshold = percentile(uncertainty.flatten(), percent)
    return pseudo_label.masked_fill(uncertainty < threshold, IGNORE), threshold


def consistency_loss(
    logits: Tensor,
    confidence: Tensor,
    pseudo_label: Tensor,
    class_confidence: np.ndarray,
    uniform: Tensor | None,
    confidence_gamma: float = 2.0,
    sampling_gamma: float = 1.0,
) -> Tensor:
    """Return L_cons of the student's ``logits`` ``[B,K,H,W]``.

    ``confidence`` float32 and ``pseudo_label`` ``[B,H,W]`` are the teacher's, ``class_confidence`` ``[K]``; ``uniform`` ``[K,H,W]`` serves
    all images alike, without it every pixel takes part.
    """
    weights = confidence**confidence_gamma
    if uniform is not None:
        predicted = arg_max(logits.detach(), 1)
        thresholds = torch.from_numpy(keep_thresholds(class_confidence, sampling_gamma)).to(logits.device)
        drawn = uniform.expand(len(logits), *uniform.shape).gather(1, predicted.unsqueeze(1)).squeeze(1)
        weights = weights * (drawn > thresholds[predicted])
    return weighted_cross_entropy(logits, pseudo_label, weights, weights.sum() + 1e-12)


class Targets(NamedTuple):
    """What the teacher says about a batch at full size: classes uint8, their probability and the entropy, ``[B,H,W]`` each."""

    pseudo_label: Tensor
    confidence: Tensor
    uncertainty: Tensor


def targets(logits: Tensor) -> Targets:
    """Return the targets that logits ``[B,K,H,W]`` give."""
    probabilities = logits.softmax(1)
    confidence, pseudo_label = probabilities.max(1)
    return Targets(pseudo_label.to(torch.uint8), confidence, entropy(probabilities))


class U2PLAEL(TeacherAndBank):
    """U2PL's student, teacher and memory bank with the banks and the step of AEL."""

    host_streams = ("labelled", "paste")

    def __init__(self, config: ExperimentConfig, session: Session) -> None:
        super().__init__(config, session)
        self.images = ImagesOnDemand(config, "partner")
        self.banks = self.keep(ClassBanks(self.classes, len(self.images.ids), config.trainer.seed))

    def step(self, batch: Batch, clock: Clock, draws: Draws | PerGroup | None = None) -> dict[str, float]:
        """Run one optimiser step and return the loss terms as they enter the sum and ``kept``, the share of pseudo-labels."""
        seed = self.config.trainer.seed
        draws = self.groups.draws(draws, lambda group: StepDraws(self.settings, seed, clock, group))
        pasted = self.groups.each(self._pasted, batch["labelled"], batch["paste"], draws)
        images, labels = (self.session.tensor(np.concatenate(part)) for part in zip(*pasted))
        mixed, scores = self._mixed_pair(batch["unlabelled"], labels.shape[1:], clock, draws)
        losses = self._equalised_losses(images, labels, mixed, scores, clock, draws)
        losses = self.apply_gradients(losses, batch, clock)
        self.move_teacher(clock)
        return losses

    def _pasted(self, labelled: dict, paste: dict, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        classes = draws.pasted_classes(self.banks.confidence)
        return paste_classes(labelled["image"], labelled["label"], paste["image"], paste["label"], classes)

    def _mixed_pair(self, unlabelled: dict, size: Size, clock: Clock, draws: PerGroup) -> tuple[Tensor, Tensor]:
        """Return unlabelled images with a region of another one that should show a chosen class, and the teacher's logits."""
        count = len(unlabelled["ids"])
        chosen = self.groups.each(lambda draws: draws.partners(self.banks, count // self.groups.per_process), draws)
        categories, positions = (np.concatenate(part) for part in zip(*chosen))
        other = self.images.load(positions, clock, self.groups.process * count)
        first, second = self.session.tensor(unlabelled["image"]), self.session.tensor(other)
        weak = torch.cat([first, second])
        scores = resize(self.forward("teacher", weak, clock, train=False, wanted=("logits",))["logits"], size)
        class_maps = arg_max(scores, 1).to(torch.uint8).cpu().numpy()
        masks = self.groups.each(lambda draws, *part: draws.mix_masks(*part), draws, class_maps[count:], categories)
        masks = self.session.tensor(np.concatenate(masks))
        self._update_coverage(np.stack([self.images.positions(unlabelled["ids"]), positions]), class_maps)
        return cutmix(second, first, masks), cutmix(scores[count:], scores[:count], masks)

    def _update_coverage(self, positions: np.ndarray, class_maps: np.ndarray) -> None:
        """Note which classes the images at ``positions`` ``[2,B]`` show, whose maps follow one another, and those of all processes."""
        count, covered = positions.shape[1], self.banks.covered(class_maps, self.settings.coverage_area)
        seen = np.zeros((2, count * self.processes.count, 1 + self.classes), np.int64)
        process_slice = slice(self.processes.index * count, (self.processes.index + 1) * count)
        seen[:, process_slice, 0], seen[:, process_slice, 1:] = positions, covered.reshape(2, count, -1)
        seen = self.processes.sum_counts(seen).reshape(-1, 1 + self.classes)
        self.banks.note_coverage(seen[:, 0], seen[:, 1:])

    def _equalised_losses(
        self, images: Tensor, labels: Tensor, mixed: Tensor, scores: Tensor, clock: Clock, draws: PerGroup
    ) -> dict[str, float]:
        size, wanted = labels.shape[1:], ("logits", "representation")
        teacher = self.forward("teacher", images, clock, wanted=wanted)
        teacher_mixed = self.forward("teacher", mixed, clock, "teacher mixed", wanted=wanted)
        teacher_scores = resize(teacher["logits"], size)
        of_labelled, of_mixed = targets(teacher_scores), targets(scores)
        reliable = self.groups.each(self._reliable, of_mixed, clock)
        with_contrastive = clock.epoch >= self.settings.contrastive_start_epoch
        if with_contrastive:
            features = self.together(teacher["representation"], teacher_mixed["representation"])
            small = (resize(part, features.shape[2:]).softmax(1) for part in (teacher_scores, scores))
            probabilities = self.together(*small)
            chosen = self.groups.each(
                self._contrastive_pixels, features, probabilities, labels, of_mixed, reliable, clock
            )
            self.append_keys(chosen)

        def terms() -> dict[str, Tensor]:
            outputs = self.forward("student", images, clock)
            outputs_mixed = self.forward("student", mixed, clock, "student mixed", wanted=wanted)
            student_scores = resize(outputs["logits"], size)
            self._update_confidence(student_scores, labels)
            representation = self.together(outputs["representation"], outputs_mixed["representation"])
            # With a zero gradient, not none, the representation head still feels weight decay, as in the released program.
            contrastive = representation.sum() * 0
            if with_contrastive:
                contrastive = self.contrastive(representation, chosen, clock, draws)
            student_mixed = resize(outputs_mixed["logits"], size)
            return self.groups.mean(
                self._group_terms,
                outputs,
                student_scores,
                student_mixed,
                labels,
                of_labelled,
                of_mixed,
                reliable,
                contrastive,
                draws,
                clock,
            )

        return self.optimizer.differentiate(terms, shown=lambda: {"kept": self.groups.mean(kept_share, reliable)})

    def _contrastive_pixels(
        self, features: Tensor, probabilities: Tensor, labels: Tensor, teacher: Targets, reliable: Tensor, clock: Clock
    ) -> Pixels:
        """Return what the contrastive term looks at in one group; ``teacher`` is that of the mixed images."""
        seen = reliable if self.settings.contrastive_pixels == "kept" else teacher.pseudo_label
        among = teacher.pseudo_label != IGNORE
        return self.pixels(features, probabilities, labels, seen, teacher.uncertainty, clock, among)

    def _group_terms(
        self, outputs: Outputs, scores: Tensor, scores_mixed: Tensor, labels: Tensor, of_labelled: Targets,
        of_mixed: Targets, reliable: Tensor, contrastive: Tensor, draws: Draws, clock: Clock,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return one group's terms as they enter the sum."""
        of_mixed = of_mixed._replace(pseudo_label=reliable)
        weight = self.settings.consistency(clock)
        losses = {
            "sup": self.supervised(outputs, labels),
            "cons_labelled": weight * self._consistency("labelled", scores, of_labelled, draws),
            "cons_unlabelled": weight * self._consistency("unlabelled", scores_mixed, of_mixed, draws),
            "contra": self.settings.contrastive.weight * contrastive,
        }
        return {name: self.settings.loss_scale * term for name, term in losses.items()}

    def _update_confidence(self, scores: Tensor, labels: Tensor) -> None:
        """Move the bank towards the mean over all groups of their classes' confidence."""
        confidence = sum(self.groups.each(class_confidence, scores, labels))
        if self.groups.total > 1:
            confidence = self.processes.sum(torch.from_numpy(confidence)).numpy() / np.float32(self.groups.total)
        self.banks.update_confidence(confidence, self.settings.confidence_momentum)

    def _reliable(self, teacher: Targets, clock: Clock) -> Tensor:
        """Return the pseudo-labels without the pixels that the switch ``drop`` drops."""
        kept = self.settings.percent_kept(clock)
        if self.settings.drop == "low":
            return drop_confident(teacher.uncertainty, teacher.pseudo_label, 100 - kept)[0]
        return drop_unreliable(teacher.uncertainty, teacher.pseudo_label, kept)[0]

    def _consistency(self, term: str, scores: Tensor, teacher: Targets, draws: Draws) -> Tensor:
        settings = self.settings
        uniform = self.session.tensor(draws.uniform(term, scores.shape[1:])) if settings.sampling else None
        return consistency_loss(
            scores, teacher.confidence, teacher.pseudo_label, self.banks.confidence, uniform,
            settings.confidence_gamma, settings.sampling_gamma,
        )  # fmt: skip
