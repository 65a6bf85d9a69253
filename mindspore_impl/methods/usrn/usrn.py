"""USRN, stage C, in MindSpore; the PyTorch file of the same name mirrors this one. (Stage A is the supervised baseline.)

    L = sup_weight * (L_s + w_sub * L_s_sub) + w_un * w_sub * L_u_sub + w_un * L_u_reg

L_s, L_s_sub: cross entropy of the labelled images' classes and subclasses at full size. L_u_sub: the strong view's subclasses
against the weak view's confident ones. L_u_reg: the strong view's classes against the weak view's, which the subclass branch may
veto unless its entropy says that it is the less certain one (``mindspore_impl/methods/usrn/subclasses.py``). One network with two
branches, no teacher; three passes in train mode: labelled, strong, weak, the last without gradient.

Source: the authors' ``models/model.py`` and ``trainer.py``.
"""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, ops

from common.config.schema import CriterionConfig, ExperimentConfig
from common.methods.interface import Batch, Clock
from common.methods.usrn.subclasses import parent_table
from common.methods.usrn.usrn import USRNSettings
from mindspore_impl.losses import resized_cross_entropy, supervised_loss
from mindspore_impl.methods.base import Method
from mindspore_impl.methods.suponly import SupOnly
from mindspore_impl.methods.usrn.subclasses import PseudoLabels, pseudo_labels, self_training_loss
from mindspore_impl.networks.class_branch import ClassBranch
from mindspore_impl.predictor import MindSporePredictor
from mindspore_impl.pseudo_labels import kept_share
from mindspore_impl.resize import resize
from mindspore_impl.session import Session


def labelled_terms(
    logits: Tensor,
    subclass_logits: Tensor,
    labels: Tensor,
    subclass_labels: Tensor,
    settings: USRNSettings,
    criterion: CriterionConfig,
) -> dict[str, Tensor]:
    """Return ``sup`` and ``sup_sub`` as they enter the sum; logits ``[B,n,h,w]``, labels uint8 ``[B,H,W]``."""
    supervised = supervised_loss(criterion, resize(logits, labels.shape[1:]), labels)
    subclasses = resized_cross_entropy(subclass_logits, subclass_labels)
    return {
        "sup": settings.sup_weight * supervised,
        "sup_sub": settings.subclass_weight * settings.sup_weight * subclasses,
    }


def unlabelled_terms(strong: tuple[Tensor, Tensor], weak: PseudoLabels, settings: USRNSettings) -> dict[str, Tensor]:
    """Return ``unsup_sub`` and ``unsup_reg`` as they enter the sum.

    ``strong`` are class logits ``[B,C,h,w]`` and subclass logits ``[B,K,h,w]``, ``weak`` is what the weak view decides.
    """
    subclass_weight = settings.unsup_weight * settings.subclass_weight
    return {
        "unsup_sub": subclass_weight * self_training_loss(strong[1], weak.kept_subclass),
        "unsup_reg": settings.unsup_weight * self_training_loss(strong[0], weak.kept_label),
    }


class USRNBaseline(SupOnly):
    """Stage A: supervised training, on other batches."""


class USRN(Method):
    """One network with a branch for classes and one for subclasses."""

    def __init__(self, config: ExperimentConfig, session: Session) -> None:
        super().__init__(config, session)
        self.parents = session.tensor(parent_table(self.settings.subclass_counts))

    def step(self, batch: Batch, clock: Clock) -> dict[str, float]:
        """Run one optimiser step and return the loss terms as they enter the sum and ``kept``, the share of pseudo-labels."""
        parts, kept = [lambda: self._labelled(batch["labelled"], clock)], []
        if clock.epoch >= self.settings.start_epoch:
            parts.append(lambda: self._unlabelled(batch["unlabelled"], clock, kept))
        losses = self.optimizer.differentiate(
            *parts, shown=lambda: {"kept": sum(kept) / self.groups.total} if kept else {}
        )
        return self.apply_gradients(losses, batch, clock)

    def _labelled(self, part: dict, clock: Clock) -> dict[str, Tensor]:
        labels, subclass_labels = (self.session.tensor(part[name]) for name in ("label", "subclass"))
        scores = self._scores("labelled", part["image"], clock, pooled=False)
        return self.groups.mean(labelled_terms, *scores, labels, subclass_labels, self.settings, self.config.criterion)

    def _unlabelled(self, part: dict, clock: Clock, kept: list[Tensor]) -> dict[str, Tensor]:
        strong = self._scores("strong", part["strong"], clock, self.settings.pooled)
        weak = self._scores("weak", part["weak"], clock, self.settings.pooled, gradient=False)

        def terms(strong: tuple[Tensor, Tensor], weak: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
            decided = pseudo_labels(*map(ops.stop_gradient, weak), self.parents, self.settings.threshold)
            kept.append(kept_share(decided.kept_label))
            return unlabelled_terms(strong, decided, self.settings)

        return self.groups.mean(terms, strong, weak)

    def _scores(
        self, view: str, images: np.ndarray, clock: Clock, pooled: bool, gradient: bool = True
    ) -> tuple[Tensor, Tensor]:
        outputs = self.forward("student", self.session.tensor(images), clock, view, gradient=gradient, pooled=pooled)
        return outputs["logits"], outputs["subclass_logits"]

    def predictor(self, role: str) -> MindSporePredictor:
        """Return a predictor over the live class branch."""
        return MindSporePredictor(ClassBranch(self.student), self.session.device)
