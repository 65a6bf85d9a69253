"""Teacher and memory bank of U2PL and of U2PL on AEL in MindSpore; the PyTorch file of the same name mirrors this one.

Which pixels the contrastive term looks at, what it gives to the bank and how its loss and prototypes run over the groups of a batch.

Source: the authors' ``train_semi.py`` and, of ``with_AEL``, ``train.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import mindspore as ms
from mindspore import Tensor, ops

from common.arrays import IGNORE, Size
from common.config.schema import ExperimentConfig
from common.methods.groups import PerGroup
from common.methods.interface import Clock
from common.methods.u2pl.u2pl import Draws
from mindspore_impl.methods.base import KeptTensor, TeacherMethod
from mindspore_impl.methods.u2pl.contrastive import ContrastiveResult, contrastive_loss, label_maps, negative_keys
from mindspore_impl.methods.u2pl.memory_bank import MemoryBank
from mindspore_impl.pseudo_labels import percentile
from mindspore_impl.resize import nearest_floor
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
    """Return the low and high entropy masks, bool ``[Bl+Bu,h,w]`` at ``size``.

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


class TeacherAndBank(TeacherMethod):
    """A student, its EMA teacher and a memory bank of the teacher's unreliable pixels."""

    def __init__(self, config: ExperimentConfig, session: Session) -> None:
        super().__init__(config, session)
        width, contrastive = config.network.representation, self.settings.contrastive
        self.bank = self.keep(MemoryBank(self.settings.queue_sizes(self.classes), width))
        self.prototype = None
        if contrastive.anchor_ema:
            start = ops.zeros((self.classes, contrastive.num_queries, width), ms.float32)
            self.prototype = self.keep(KeptTensor("prototype", start))

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
        group_keys = [
            negative_keys(p.teacher_representation, p.probabilities, p.maps, p.high_mask, p.labelled, settings)
            for p in pixels
        ]
        if self.processes.count > 1:
            group_keys = self.processes.rows([list(keys) for keys in group_keys])
        numbers = []
        for class_id, keys in enumerate(zip(*group_keys)):
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
