"""U2PL: settings, presets, schedules and host-side draws (``specs/u2pl.md``), shared by both frameworks.

``preset: authors`` is what the released program computes, ``fixed`` what the paper describes (section 18); each of the
switches below can be set alone, ``auto`` takes the preset's value.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from common.config import NetworkConfig
from common.method import Clock, Stream
from common.mixing import box_mask, class_mask, draw_half_area_box
from common.rng import generator
from common.strict import ranged


@dataclass(frozen=True, kw_only=True)
class ContrastiveSettings:
    """Contrastive term, section 8. Switches 18.1-18.6: ``auto`` follows the preset.

    ``weight`` is the effective one (section 8.4: 0.25 on VOC, 0.125 on Cityscapes), whatever the number of processes.
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


PRESETS = {
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
class U2PLSettings:
    """Settings of U2PL; defaults are the authors' for VOC (section 16)."""

    name: Literal["u2pl"] = "u2pl"
    preset: Literal["authors", "fixed"] = "authors"
    sup_only_epochs: int = ranged(1, low=0)
    drop_percent: float = ranged(80.0, low=0.0, high=100.0)
    unsup_weight: float = ranged(1.0, low=0.0)
    mixing: Literal["cutmix", "cutout", "classmix", "none"] = "cutmix"
    mixing_probability: float = ranged(0.5, low=0.0, high=1.0)
    ema_decay: float = ranged(0.99, low=0.0, high=1.0)
    ema_first_epoch: Literal["auto", "tied", "copy_once"] = "auto"
    contrastive: ContrastiveSettings = ContrastiveSettings()

    def resolved(self) -> U2PLSettings:
        """The same settings with every ``auto`` replaced by the preset's value."""
        preset = PRESETS[self.preset]
        chosen = {key: value for key, value in preset.items() if getattr(self.contrastive, key) == "auto"}
        first = {"authors": "tied", "fixed": "copy_once"}[self.preset]
        return dataclasses.replace(
            self,
            contrastive=dataclasses.replace(self.contrastive, **chosen),
            ema_first_epoch=first if self.ema_first_epoch == "auto" else self.ema_first_epoch,
        )

    def streams(self) -> tuple[Stream, ...]:
        """Labelled and unlabelled images, both with the same weak augmentation (section 2.2)."""
        return (
            Stream(name="labelled", source="labelled", pipeline="weak", labels=("label",)),
            Stream(name="unlabelled", source="unlabelled", pipeline="weak"),
        )

    def check(self, network: NetworkConfig) -> None:
        """Raise :class:`ValueError` for a network without features for the contrastive loss."""
        if not network.representation:
            raise ValueError("method u2pl needs network.representation (features of the contrastive loss), e.g. 256")

    def warnings(self, classes: int) -> list[str]:
        """What is probably not meant, one line each (section 16, last paragraph)."""
        low_rank = self.contrastive.low_rank
        if low_rank < max(classes - 1, 2):
            return []
        return [
            f"warning: method.contrastive.low_rank = {low_rank} leaves at most one rank among {classes} classes, so the "
            f"contrastive term finds hardly any negatives; set it to {max(classes - 2, 1)}"
        ]

    def percent_kept(self, clock: Clock) -> float:
        """Share of unlabelled pixels that keep their pseudo-label, in percent (section 4)."""
        return 100 - (100 - self.drop_percent) * (1 - clock.epoch / clock.epochs)

    def entropy_percent(self, clock: Clock) -> float:
        """Percentage alpha of the contrastive masks (section 4)."""
        return self.contrastive.low_entropy_threshold * (1 - clock.epoch / clock.epochs)

    def teacher_decay(self, clock: Clock) -> float:
        """EMA decay d(i) of section 4."""
        return min(1 - 1 / self._semi_supervised_steps(clock), self.ema_decay)

    def prototype_decay(self, clock: Clock) -> float:
        """Decay of the moving prototypes of ``anchor_ema`` (section 8.3)."""
        return min(1 - 1 / self._semi_supervised_steps(clock), 0.999)

    def _semi_supervised_steps(self, clock: Clock) -> int:
        """Number of semi-supervised steps up to this one, from 1."""
        return clock.iteration - clock.iterations_per_epoch * self.sup_only_epochs + 1

    def queue_sizes(self, classes: int) -> list[int]:
        """Length of every class's queue of negatives (section 4)."""
        return [self.contrastive.queue_first] + [self.contrastive.queue_other] * (classes - 1)


class Draws(Protocol):
    """The random decisions of one step; tests replay recorded ones."""

    def mix_masks(self, pseudo_label: np.ndarray) -> np.ndarray | None:
        """Return ``[B,H,W]`` bool, true = keep the own pixel, or None when this step does not mix."""

    def anchors(self, candidates: int) -> np.ndarray:
        """Return ``num_queries`` indices below ``candidates``, with replacement."""

    def negatives(self, rows: int) -> np.ndarray:
        """Return ``num_queries * num_negatives`` indices below ``rows``, with replacement; row i belongs to anchor i."""


class StepDraws:
    """Draws of section 6 and 8 from generators keyed by (seed, epoch, step, process)."""

    def __init__(self, settings: U2PLSettings, seed: int, clock: Clock, process: int = 0) -> None:
        self.settings = settings
        self._mixing = generator(seed, "u2pl mixing", clock.epoch, clock.step, process)
        self._contrastive = generator(seed, "u2pl contrastive", clock.epoch, clock.step, process)

    def mix_masks(self, pseudo_label: np.ndarray) -> np.ndarray | None:
        """See :class:`Draws`; ``pseudo_label`` is uint8 ``[B,H,W]`` (only ClassMix looks at it)."""
        if self.settings.mixing == "none" or self._mixing.random() >= self.settings.mixing_probability:
            return None
        if self.settings.mixing == "classmix":
            return np.stack([class_mask(labels, self._mixing) for labels in pseudo_label])
        size = pseudo_label.shape[1:]
        return np.stack([box_mask(size, draw_half_area_box(size, self._mixing)) for _ in pseudo_label])

    def anchors(self, candidates: int) -> np.ndarray:
        """See :class:`Draws`."""
        return self._contrastive.integers(candidates, size=self.settings.contrastive.num_queries)

    def negatives(self, rows: int) -> np.ndarray:
        """See :class:`Draws`."""
        settings = self.settings.contrastive
        return self._contrastive.integers(rows, size=settings.num_queries * settings.num_negatives)
