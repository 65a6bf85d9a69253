"""What FixMatch, UniMatch and UCCL share in MindSpore; the PyTorch file of the same name mirrors this one.

One network learns from labels and, on unlabelled images, from its own hard labels of the weak view, where it is certain, for
strong views of the same image. The strong views are CutMixed with a partner, whose labels come from an eval-mode pass.

Source: ``fixmatch.py`` and ``unimatch.py`` of LiheYoung/UniMatch, ``UCCL.py`` of YUKEKEJAN/UCCL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from common.images.mixing import partners
from common.methods.groups import PerGroup, by_stream
from common.methods.interface import Batch, Clock
from common.methods.uccl.weak_to_strong import feature_masks
from mindspore_impl.methods.base import Method, Outputs
from mindspore_impl.mixing import cutmix
from mindspore_impl.pseudo_labels import certain_loss, certain_share, certainty
from mindspore_impl.resize import resize

PseudoLabels = tuple[Tensor, Tensor]
"""Confidence and label ``[B,H,W]`` of :func:`mindspore_impl.pseudo_labels.certainty`."""


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
    """What the three do in a step; a method adds passes and terms."""

    def step(self, batch: Batch, clock: Clock, dropped: Sequence[np.ndarray] | None = None) -> dict[str, float]:
        """Run one optimiser step; return the loss terms as they enter the sum and ``certain``, the share of such pixels.

        ``dropped``: see :class:`Inputs`.
        """
        labelled, unlabelled = (
            {name: self.session.tensor(values) for name, values in batch[stream].items() if name != "ids"}
            for stream in ("labelled", "unlabelled")
        )
        settings = self.settings
        views = Views.of(unlabelled, settings.strong_views, settings.cutmix.partner, self.groups.per_process)
        logits = self.forward("student", views.mix_weak, clock, train=False, wanted=("logits",))["logits"]
        partner = self.pseudo_labels(logits, views)
        inputs = Inputs(labelled["image"], labelled["label"], views, partner, clock, dropped)
        decided: list[PseudoLabels] = []
        losses = self.optimizer.differentiate(
            *self.parts(inputs, decided),
            shown=lambda: {"certain": self.groups.mean(self.certain, PerGroup(decided), views)},
        )
        return self.apply_gradients(losses, batch, clock)

    def parts(self, inputs: Inputs, decided: list[PseudoLabels]) -> Sequence[Callable[[], dict[str, Tensor]]]:
        """Return what is differentiated, one after the other; their order decides BatchNorm's running statistics.

        ``decided`` receives every group's labels of the weak view.
        """
        return (
            lambda: self.learn_weak(inputs, decided),
            lambda: self.learn_strong(self.strong_pass(inputs), inputs, decided),
        )

    def learn_weak(self, inputs: Inputs, decided: list[PseudoLabels]) -> dict[str, Tensor]:
        """Run the pass over labelled images and weak views and return its terms."""

        def terms(outputs: Outputs, inputs: Inputs) -> dict[str, Tensor]:
            count = len(inputs.images)
            decided.append(self.pseudo_labels(outputs["logits"][count : count + len(inputs.views.weak)], inputs.views))
            return self.weak_terms(outputs, inputs, decided[-1])

        return self.groups.mean(terms, self.weak_pass(inputs), inputs)

    def learn_strong(self, outputs: Outputs, inputs: Inputs, decided: list[PseudoLabels]) -> dict[str, Tensor]:
        """Return the terms of the strong views' ``outputs``."""
        return self.groups.mean(self.strong_terms, outputs, inputs, PerGroup(decided))

    def weak_pass(self, inputs: Inputs) -> Outputs:
        """Run the pass over labelled images and, behind them, weak views."""
        raise NotImplementedError

    def strong_pass(self, inputs: Inputs) -> Outputs:
        """Run the pass over the mixed strong views."""
        raise NotImplementedError

    def weak_terms(self, outputs: Outputs, inputs: Inputs, weak_labels: PseudoLabels) -> dict[str, Tensor]:
        """Return the terms of a group's weak pass; ``weak_labels`` are the labels of its weak view."""
        raise NotImplementedError

    def strong_terms(self, outputs: Outputs, inputs: Inputs, weak_labels: PseudoLabels) -> dict[str, Tensor]:
        """Return the terms of a group's strong views."""
        raise NotImplementedError

    def perturbed_pass(self, purpose: str, images: Tensor, inputs: Inputs) -> Outputs:
        """Run the network in train mode on clean and perturbed features; outputs of 2B images, of a group the clean ones first."""
        dropped = inputs.dropped
        if dropped is None:
            count, seed = len(images) // self.groups.per_process, self.config.trainer.seed
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

    def strong_losses(
        self, logits: Tensor, views: Views, weak_labels: PseudoLabels, partner: PseudoLabels
    ) -> list[Tensor]:
        """Return L_sv of every strong view; ``logits`` ``[views*B,K,h,w]`` of the mixed ones, view by view.

        ``weak_labels`` and ``partner`` are the :meth:`pseudo_labels` of the weak view and of its partner.
        """
        losses = []
        for view in range(self.settings.strong_views):
            rows = slice(view * len(views.weak), (view + 1) * len(views.weak))
            confidence, label = (cutmix(a, b, views.boxes[view]) for a, b in zip(weak_labels, partner))
            losses.append(self.consistency(logits[rows], label, confidence, views.mixed_ignore(view)))
        return losses

    def certain(self, weak_labels: PseudoLabels, views: Views) -> Tensor:
        """Return the share of the weak view's pixels that are certain."""
        return certain_share(weak_labels[0], views.ignore, self.settings.conf_thresh)
