"""U2PL: settings, presets, schedules and host-side draws (``train_semi.py``), shared by both frameworks.

``preset: authors`` is what the released program computes, ``fixed`` what the paper describes; each of the
switches below can be set alone, ``auto`` takes the preset's value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from common.config.schema import NetworkConfig
from common.config.strict import ranged
from common.images.mixing import box_mask, class_mask, draw_half_area_box
from common.methods.interface import Clock
from common.methods.presets import Preset
from common.methods.teacher import TeacherSettings, percent_kept, steps_from
from common.rng import generator


@dataclass(frozen=True, kw_only=True)
class ContrastiveSettings:
    """Contrastive term (``u2pl/utils/loss_helper.py``). What is ``auto`` follows the preset.

    ``weight`` is the effective one (the authors' 1 over their 4 GPUs on VOC, 8 on Cityscapes), whatever the number of groups.
    ``conf_weight``: class means weighted by every pixel's largest probability.
    """

    weight: float = ranged(0.25, low=0.0)
    label_encoding: Literal["auto", "union_first", "onehot"] = "auto"
    class_pairing: Literal["auto", "position", "class"] = "auto"
    negatives: Literal["auto", "code", "paper"] = "auto"
    anchor_entropy: Literal["auto", "lowest", "reliable"] = "auto"
    positive: Literal["auto", "all_low", "anchors"] = "auto"
    negative_high_entropy: bool = True
    low_rank: int = ranged(3, low=0)
    high_rank: int = ranged(20, low=1)
    anchor_threshold: float = ranged(0.3, low=0.0, high=1.0)
    negative_threshold: float = ranged(1.0, low=0.0, high=1.0)
    low_entropy_threshold: float = ranged(20.0, low=0.0, high=100.0)
    num_queries: int = ranged(256, low=1)
    num_negatives: int = ranged(50, low=1)
    temperature: float = ranged(0.5, low=1e-6)
    queue_first: int = ranged(50_000, low=1)
    queue_other: int = ranged(30_000, low=1)
    anchor_ema: bool = False
    conf_weight: bool = False

    def queue_sizes(self, classes: int) -> list[int]:
        """Length of every class's queue of negatives."""
        return [self.queue_first] + [self.queue_other] * (classes - 1)


CONTRASTIVE_PRESETS = {
    "authors": {
        "label_encoding": "union_first", "class_pairing": "position", "negatives": "code",
        "anchor_entropy": "lowest", "positive": "all_low",
    },
    "fixed": {
        "label_encoding": "onehot", "class_pairing": "class", "negatives": "paper",
        "anchor_entropy": "reliable", "positive": "anchors",
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TeacherBankSettings(TeacherSettings):
    """What U2PL and its variant with AEL have in common: an EMA teacher, dropped pixels, the contrastive term.

    A subclass has its ``name``, ``presets`` and :meth:`contrastive_epoch`.
    """

    heads: ClassVar = ("representation", "auxiliary")

    preset: Preset = "authors"
    drop_percent: float = ranged(80.0, low=0.0, high=100.0)
    contrastive: ContrastiveSettings = ContrastiveSettings()

    def check(self, network: NetworkConfig) -> None:
        """Raise :class:`ValueError` for a network without features for the contrastive loss."""
        if not network.representation:
            needed = "network.representation (features of the contrastive loss), e.g. 256"
            raise ValueError(f"method {self.name} needs {needed}")

    def warnings(self, classes: int) -> list[str]:
        """What is probably not meant, one line each."""
        low_rank = self.contrastive.low_rank
        if low_rank < max(classes - 1, 2):
            return []
        return [
            f"warning: method.contrastive.low_rank = {low_rank} leaves at most one rank among {classes} classes, so the "
            f"contrastive term finds hardly any negatives; set it to {max(classes - 2, 1)}"
        ]

    def percent_kept(self, clock: Clock) -> float:
        """Share of unlabelled pixels that keep their pseudo-label, in percent."""
        return percent_kept(self.drop_percent, clock)

    def entropy_percent(self, clock: Clock) -> float:
        """Percentage alpha of the contrastive masks."""
        return self.contrastive.low_entropy_threshold * (1 - clock.epoch / clock.epochs)

    def prototype_decay(self, clock: Clock) -> float:
        """Decay of the moving prototypes of ``anchor_ema``."""
        return min(1 - 1 / steps_from(self.contrastive_epoch(), clock), 0.999)

    def queue_sizes(self, classes: int) -> list[int]:
        """Length of every class's queue of negatives."""
        return self.contrastive.queue_sizes(classes)


@dataclass(frozen=True, kw_only=True)
class U2PLSettings(TeacherBankSettings):
    """Settings of U2PL; defaults are the authors' for VOC.

    ``ema_first_statistics``: BatchNorm's running statistics when the teacher becomes the student's copy, those it gathered
    with its own random values (``own``), which label at random until they have recovered, or the student's.
    """

    name: Literal["u2pl"] = "u2pl"
    sup_only_epochs: int = ranged(1, low=0)
    unsup_weight: float = ranged(1.0, low=0.0)
    mixing: Literal["cutmix", "cutout", "classmix", "none"] = "cutmix"
    mixing_probability: float = ranged(0.5, low=0.0, high=1.0)
    ema_first_epoch: Literal["auto", "tied", "copy_once"] = "auto"
    ema_first_statistics: Literal["auto", "own", "student"] = "auto"

    presets: ClassVar = {
        "authors": {
            "contrastive": CONTRASTIVE_PRESETS["authors"], "ema_first_epoch": "tied", "ema_first_statistics": "own",
        },
        "fixed": {
            "contrastive": CONTRASTIVE_PRESETS["fixed"], "ema_first_epoch": "copy_once", "ema_first_statistics": "student",
        },
    }  # fmt: skip

    def teacher_epoch(self) -> int:
        """First epoch with a teacher of its own."""
        return self.sup_only_epochs

    def contrastive_epoch(self) -> int:
        """First epoch with the contrastive term."""
        return self.sup_only_epochs

    def copies_student(self, clock: Clock) -> bool:
        """Whether the teacher becomes the student before this step; ``tied``: in the whole first epoch."""
        tied = self.ema_first_epoch == "tied" and clock.epoch == self.sup_only_epochs
        return tied or super().copies_student(clock)

    def copies_statistics(self) -> bool:
        """Whether such a copy takes BatchNorm's running statistics along."""
        return self.ema_first_statistics == "student"


class ContrastiveDraws(Protocol):
    """The random decisions of the contrastive term of one step; tests replay recorded ones."""

    def anchors(self, candidates: int) -> np.ndarray:
        """Return ``num_queries`` indices below ``candidates``, with replacement."""

    def negatives(self, rows: int) -> np.ndarray:
        """Return ``num_queries * num_negatives`` indices below ``rows``, with replacement; row i belongs to anchor i."""


class DrawnTerm(NamedTuple):
    """One class's part of the contrastive loss: its ``position`` among the valid classes, its class in the bank and that of its
    anchors, and what is drawn, indices of ``anchors`` ``[n]`` and of ``negatives`` ``[n*m]``.
    """

    position: int
    bank_class: int
    anchor_class: int
    anchors: np.ndarray
    negatives: np.ndarray


def drawn_terms(
    valid_classes: Sequence[int],
    anchor_candidates: Sequence[int],
    stored: Sequence[int],
    settings: ContrastiveSettings,
    draws: ContrastiveDraws,
) -> Iterator[DrawnTerm]:
    """Yield the terms that have an anchor and a negative, of classes ``valid_classes``; ``stored``: keys of every class in the bank."""
    for position, bank_class in enumerate(valid_classes):
        anchor_class = position if settings.class_pairing == "position" else bank_class
        candidates, keys = anchor_candidates[anchor_class], stored[bank_class]
        if candidates and keys:
            yield DrawnTerm(position, bank_class, anchor_class, draws.anchors(candidates), draws.negatives(keys))


class Draws(ContrastiveDraws, Protocol):
    """The random decisions of one step of U2PL."""

    def mix_masks(self, pseudo_label: np.ndarray) -> np.ndarray | None:
        """Return ``[B,H,W]`` bool, true = keep the own pixel, or None when this step does not mix."""


class ContrastiveStepDraws:
    """Draws of the contrastive term from a generator keyed by (seed, epoch, step, group)."""

    def __init__(self, settings: TeacherBankSettings, seed: int, clock: Clock, group: int = 0) -> None:
        self.settings = settings
        self._contrastive = generator(seed, "u2pl contrastive", clock.epoch, clock.step, group)

    def anchors(self, candidates: int) -> np.ndarray:
        """See :class:`ContrastiveDraws`."""
        return self._contrastive.integers(candidates, size=self.settings.contrastive.num_queries)

    def negatives(self, rows: int) -> np.ndarray:
        """See :class:`ContrastiveDraws`."""
        settings = self.settings.contrastive
        return self._contrastive.integers(rows, size=settings.num_queries * settings.num_negatives)


class StepDraws(ContrastiveStepDraws):
    """Draws of mixing and of the contrastive term from generators keyed by (seed, epoch, step, group)."""

    def __init__(self, settings: U2PLSettings, seed: int, clock: Clock, group: int = 0) -> None:
        super().__init__(settings, seed, clock, group)
        self._mixing = generator(seed, "u2pl mixing", clock.epoch, clock.step, group)

    def mix_masks(self, pseudo_label: np.ndarray) -> np.ndarray | None:
        """See :class:`Draws`; ``pseudo_label`` is uint8 ``[B,H,W]`` (only ClassMix looks at it)."""
        if self.settings.mixing == "none" or self._mixing.random() >= self.settings.mixing_probability:
            return None
        if self.settings.mixing == "classmix":
            return np.stack([class_mask(labels, self._mixing) for labels in pseudo_label])
        size = pseudo_label.shape[1:]
        return np.stack([box_mask(size, draw_half_area_box(size, self._mixing)) for _ in pseudo_label])
