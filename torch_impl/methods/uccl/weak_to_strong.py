"""What FixMatch, UniMatch and UCCL share in PyTorch; the MindSpore file of the same name mirrors this one.

One network learns from labels and, on unlabelled images, from its own hard labels of the weak view, where it is certain, for
strong views of the same image. The strong views are CutMixed with a partner, whose labels come from an eval-mode pass.

Source: ``specs/uccl.md`` section 3 and appendices A and B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from common.images.mixing import partners
from common.methods.interface import Batch, Clock
from common.methods.uccl.weak_to_strong import feature_masks
from torch_impl.methods.base import Method, Outputs
from torch_impl.mixing import cutmix
from torch_impl.pseudo_labels import certain_loss, certain_share, certainty
from torch_impl.resize import resize

PseudoLabels = tuple[Tensor, Tensor]
"""Confidence and label ``[B,H,W]`` of :func:`torch_impl.pseudo_labels.certainty`."""


class Views:
    """The unlabelled images of a step: weak and strong views of u, of their CutMix partners m, boxes and padding.

    ``weak``, ``strong[v]`` and ``mix_...`` ``[B,3,H,W]``; ``boxes[v]`` bool, ``ignore`` and ``mix_ignore`` uint8 (255 = padding)
    ``[B,H,W]``.
    """

    def __init__(self, part: Mapping[str, Tensor], strong_views: int, partner: str) -> None:
        numbers = range(1, strong_views + 1)
        names = ["weak", "ignore", *(f"strong{number}" for number in numbers)]
        if partner == "same":
            other = {name: part[f"mix_{name}"] for name in names}
        else:
            other = {name: part[name][partners(len(part["weak"]))] for name in names}
        self.weak, self.mix_weak = part["weak"], other["weak"]
        self.ignore, self.mix_ignore = part["ignore"], other["ignore"]
        self.strong = [part[f"strong{number}"] for number in numbers]
        self.mix_strong = [other[f"strong{number}"] for number in numbers]
        self.boxes = [part[f"box{number}"] for number in numbers]

    def mixed_strong(self, view: int) -> Tensor:
        """Return strong view ``view`` (from 0) with the partners' in the boxes."""
        return cutmix(self.strong[view], self.mix_strong[view], self.boxes[view])

    def mixed_weak(self, view: int) -> Tensor:
        """Return the weak view with the partners' in the boxes of strong view ``view``."""
        return cutmix(self.weak, self.mix_weak, self.boxes[view])

    def mixed_ignore(self, view: int) -> Tensor:
        """Return the padding of the mixed images, 255 there and 0 elsewhere."""
        return cutmix(self.ignore, self.mix_ignore, self.boxes[view])


@dataclass(frozen=True)
class Inputs:
    """What the passes with gradient of one step start from.

    ``images`` ``[B,3,H,W]`` and ``labels`` ``[B,H,W]`` are the labelled ones, ``partner`` the pseudo-labels of the CutMix partners.
    ``dropped``: masks that replace the drawn ones of :func:`common.methods.uccl.weak_to_strong.feature_masks`.
    """

    images: Tensor
    labels: Tensor
    views: Views
    partner: PseudoLabels
    clock: Clock
    dropped: Sequence[np.ndarray] | None = None


class WeakToStrong(Method):
    """What the three do in a step; a method adds ``terms``."""

    def step(self, batch: Batch, clock: Clock, dropped: Sequence[np.ndarray] | None = None) -> dict[str, float]:
        """Run one optimiser step; return the loss terms as they enter the sum and ``certain``, the share of such pixels.

        ``dropped``: see :class:`Inputs`.
        """
        labelled, unlabelled = (
            {name: self.session.tensor(values) for name, values in batch[stream].items() if name != "ids"}
            for stream in ("labelled", "unlabelled")
        )
        views = Views(unlabelled, self.settings.strong_views, self.settings.cutmix.partner)
        logits = self.forward("student", views.mix_weak, clock, train=False, wanted=("logits",))["logits"]
        partner = self.pseudo_labels(logits, views)
        inputs, certain = Inputs(labelled["image"], labelled["label"], views, partner, clock, dropped), []

        def terms() -> dict[str, Tensor]:
            losses, share = self.terms(inputs)
            certain.append(share)
            return losses

        losses = self.optimizer.differentiate(terms, shown=lambda: {"certain": certain[0]})
        self.apply_gradients(losses, batch, clock)
        return losses

    def terms(self, inputs: Inputs) -> tuple[dict[str, Tensor], Tensor]:
        """Run the passes with gradient; return the loss terms by name and the share of certain pixels."""
        raise NotImplementedError

    def perturbed_pass(self, purpose: str, images: Tensor, inputs: Inputs) -> Outputs:
        """Run the network in train mode on clean and perturbed features; outputs of 2B images, the clean ones first."""
        dropped = inputs.dropped
        if dropped is None:
            dropped = feature_masks(self.config.network, len(images), self.config.trainer.seed, inputs.clock)
        return self.forward("student", images, inputs.clock, purpose, feature_masks=dropped)

    def pseudo_labels(self, logits: Tensor, views: Views) -> PseudoLabels:
        """Return confidence and label at image size for the network's ``logits`` ``[B,K,h,w]``, without gradient."""
        return certainty(resize(logits.detach(), views.ignore.shape[1:]))

    def consistency(self, logits: Tensor, label: Tensor, confidence: Tensor, ignore: Tensor) -> Tensor:
        """Return :func:`certain_loss` of ``logits`` ``[B,K,h,w]`` at the labels' size."""
        scores = resize(logits, label.shape[1:])
        return certain_loss(scores, label, confidence, ignore, self.settings.conf_thresh)

    def strong_losses(self, logits: Tensor, views: Views, own: PseudoLabels, partner: PseudoLabels) -> list[Tensor]:
        """Return L_sv of every strong view; ``logits`` ``[views*B,K,h,w]`` of the mixed ones, view by view.

        ``own`` and ``partner`` are the :meth:`pseudo_labels` of the weak view and of its partner.
        """
        losses = []
        for view in range(self.settings.strong_views):
            rows = slice(view * len(views.weak), (view + 1) * len(views.weak))
            confidence, label = (cutmix(a, b, views.boxes[view]) for a, b in zip(own, partner))
            losses.append(self.consistency(logits[rows], label, confidence, views.mixed_ignore(view)))
        return losses

    def certain(self, own: PseudoLabels, views: Views) -> Tensor:
        """Return the share of the weak view's pixels that are certain."""
        return certain_share(own[0], views.ignore, self.settings.conf_thresh)
