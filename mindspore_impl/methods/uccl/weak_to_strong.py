"""What FixMatch, UniMatch and UCCL share in MindSpore; the PyTorch file of the same name mirrors this one.

One network learns from labels and, on unlabelled images, from its own hard labels of the weak view, where it is certain, for
strong views of the same image. The strong views are CutMixed with a partner, whose labels come from an eval-mode pass.

Source: ``specs/uccl.md`` section 3 and appendices A and B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from common.images.mixing import partners
from common.methods.groups import by_stream
from common.methods.interface import Batch, Clock
from common.methods.uccl.weak_to_strong import feature_masks
from mindspore_impl.methods.base import Method, Outputs
from mindspore_impl.mixing import cutmix
from mindspore_impl.pseudo_labels import certain_loss, certain_share, certainty
from mindspore_impl.resize import resize

PseudoLabels = tuple[Tensor, Tensor]
"""Confidence and label ``[B,H,W]`` of :func:`mindspore_impl.pseudo_labels.certainty`."""

Passed = dict[str, Outputs]
"""Outputs by the name of the pass."""


@dataclass(frozen=True)
class Views:
    """The unlabelled images of a step: weak and strong views of u, of their CutMix partners m, boxes and padding.

    ``weak``, ``strong[v]`` and ``mix_...`` ``[B,3,H,W]``; ``boxes[v]`` bool, ``ignore`` and ``mix_ignore`` uint8 (255 = padding)
    ``[B,H,W]``.
    """

    weak: Tensor
    mix_weak: Tensor
    ignore: Tensor
    mix_ignore: Tensor
    strong: list[Tensor]
    mix_strong: list[Tensor]
    boxes: list[Tensor]

    @classmethod
    def of(cls, part: Mapping[str, Tensor], strong_views: int, partner: str, groups: int = 1) -> Views:
        """Return the views in a batch's ``part``; a ``partner`` from the batch is of the same one of its ``groups``."""
        numbers = range(1, strong_views + 1)
        names = ["weak", "ignore", *(f"strong{number}" for number in numbers)]
        if partner == "same":
            other = {name: part[f"mix_{name}"] for name in names}
        else:
            order = ms.Tensor(partners(len(part["weak"]), groups), ms.int32)
            other = {name: ops.gather(part[name], order, 0) for name in names}
        return cls(
            weak=part["weak"],
            mix_weak=other["weak"],
            ignore=part["ignore"],
            mix_ignore=other["ignore"],
            strong=[part[f"strong{number}"] for number in numbers],
            mix_strong=[other[f"strong{number}"] for number in numbers],
            boxes=[part[f"box{number}"] for number in numbers],
        )

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
        settings = self.settings
        views = Views.of(unlabelled, settings.strong_views, settings.cutmix.partner, self.groups.own)
        logits = self.forward("student", views.mix_weak, clock, train=False, wanted=("logits",))["logits"]
        partner = self.pseudo_labels(logits, views)
        inputs, certain = Inputs(labelled["image"], labelled["label"], views, partner, clock, dropped), []

        def terms(passed: Passed, inputs: Inputs) -> dict[str, Tensor]:
            losses, share = self.terms(passed, inputs)
            certain.append(share)
            return losses

        losses = self.optimizer.differentiate(
            lambda: self.groups.mean(terms, self.run_passes(inputs), inputs),
            shown=lambda: {"certain": sum(certain) / self.groups.total},
        )
        return self.apply_gradients(losses, batch, clock)

    def run_passes(self, inputs: Inputs) -> Passed:
        """Run the passes with gradient, whose order decides BatchNorm's running statistics."""
        raise NotImplementedError

    def terms(self, passed: Passed, inputs: Inputs) -> tuple[dict[str, Tensor], Tensor]:
        """Return the loss terms of a group by name and the share of certain pixels."""
        raise NotImplementedError

    def perturbed_pass(self, purpose: str, images: Tensor, inputs: Inputs) -> Outputs:
        """Run the network in train mode on clean and perturbed features; outputs of 2B images, of a group the clean ones first."""
        dropped = inputs.dropped
        if dropped is None:
            count, seed = len(images) // self.groups.own, self.config.trainer.seed
            drawn = [
                feature_masks(self.config.network, count, seed, inputs.clock, group) for group in self.groups.numbers
            ]
            dropped = [by_stream(masks, 1) for masks in zip(*drawn)]
        return self.forward("student", images, inputs.clock, purpose, feature_masks=dropped)

    def pseudo_labels(self, logits: Tensor, views: Views) -> PseudoLabels:
        """Return confidence and label at image size for the network's ``logits`` ``[B,K,h,w]``, without gradient."""
        return certainty(resize(ops.stop_gradient(logits), views.ignore.shape[1:]))

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
