"""PCR: settings, schedules and host-side draws, shared by both frameworks.

The authors never released their training program: every choice that is this project's own is a switch here
(``docs/methods/pcr.md`` says which is whose). Its other switches are ``augment.pad_label``,
``network.stem_pool`` and ``evaluation.head``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from common.arrays import Size
from common.config.schema import ExperimentConfig, NetworkConfig
from common.config.strict import ranged
from common.errors import UserError
from common.images.mixing import box_mask, draw_half_area_box
from common.methods.interface import Clock
from common.methods.teacher import TeacherSettings, percent_kept
from common.rng import generator


@dataclass(frozen=True, kw_only=True)
class PCRSettings(TeacherSettings):
    """Settings of PCR; defaults are the authors' for VOC and the project's choices.

    Losses: ``proto_weight`` is omega, ``unsup_weight`` lambda; ``confidence_threshold`` is tau. The prototypes are born
    (``proto_init``) and their losses begin with epoch ``proto_warmup_epochs``; null: with the semi-supervised epochs.
    """

    heads: ClassVar = ("prototypes", "auxiliary")

    name: Literal["pcr"] = "pcr"
    sup_only_epochs: int = ranged(1, low=0)
    unsup_weight: float = ranged(1.0, low=0.0)
    unsup_filter: Literal["confidence", "entropy_drop"] = "confidence"
    confidence_threshold: float = ranged(0.8, low=0.0)
    drop_percent: float = ranged(80.0, low=0.0, high=100.0)
    unsup_denominator: Literal["valid", "all"] = "valid"
    cutmix_prob: float = ranged(0.5, low=0.0, high=1.0)
    proto_weight: float = ranged(1.0, low=0.0)
    proto_sup: bool = True
    select_granularity: int = ranged(32, low=1)
    proto_warmup_epochs: int | None = ranged(None, low=0)
    proto_init: Literal["warmup", "file"] = "warmup"
    proto_file: str | None = None
    proto_init_space: Literal["raw", "unit"] = "raw"
    proto_init_pixels: int = ranged(5000, low=1)
    proto_update: bool = True
    proto_momentum: float = ranged(0.99, low=0.0, high=1.0)
    proto_sync: bool = True
    teacher_copy: Literal["once", "whole_epoch"] = "once"
    teacher_bn: Literal["forward", "ema", "copy"] = "forward"

    def __post_init__(self) -> None:
        if (self.proto_init == "file") != (self.proto_file is not None):
            raise ValueError("proto_init=file and proto_file=FILE go together: set both or neither")
        if self.unsup_filter == "entropy_drop" and self.teacher_bn != "forward":
            raise ValueError(
                "unsup_filter=entropy_drop looks at the teacher's train-mode pass; it needs teacher_bn=forward"
            )
        if self.unsup_filter == "entropy_drop" and self.unsup_denominator == "all":
            raise ValueError("unsup_filter=entropy_drop has its own weight; unsup_denominator=all goes with confidence")
        if not self.proto_sync:
            raise ValueError(
                "proto_sync=false lets the prototypes of several processes drift apart, which no run here does; leave it true"
            )

    @property
    def proto_epoch(self) -> int:
        """The first epoch with prototypes."""
        return self.sup_only_epochs if self.proto_warmup_epochs is None else self.proto_warmup_epochs

    def check(self, network: NetworkConfig) -> None:
        """Raise :class:`ValueError` for a network without prototypes."""
        if not network.prototypes:
            raise ValueError("method pcr needs network.prototypes (prototypes per class), e.g. 4")

    def warnings(self, classes: int) -> list[str]:
        """What is probably not meant, one line each."""
        if self.confidence_threshold <= 1 or self.unsup_filter != "confidence":
            return []
        return [
            "warning: method.confidence_threshold above 1 keeps no pseudo-label: the unlabelled images teach nothing"
        ]

    def teacher_epoch(self) -> int:
        """First semi-supervised epoch."""
        return self.sup_only_epochs

    def with_prototypes(self, clock: Clock) -> bool:
        """Whether this step has the prototype losses and the prototypes' upkeep."""
        return clock.epoch >= self.proto_epoch

    def percent_kept(self, clock: Clock) -> float:
        """Share of pixels that keep their pseudo-label with ``entropy_drop``, in percent, as in U2PL."""
        return percent_kept(self.drop_percent, clock)

    def copies_student(self, clock: Clock) -> bool:
        """Whether the teacher becomes the student before this step."""
        whole_epoch = self.teacher_copy == "whole_epoch" and clock.epoch == self.sup_only_epochs
        return whole_epoch or super().copies_student(clock)


def check_crop(config: ExperimentConfig) -> None:
    """Raise :class:`UserError` where the training crop has fewer pixels a side than the selection grid has cells."""
    cells, crop = config.method.select_granularity, config.augment.crop
    if cells > crop:
        raise UserError(
            f"method.select_granularity = {cells}: a crop of {crop} pixels (augment.crop) has no {cells} cells a side; lower it"
        )


def select_pixels(
    size: Size, row_draws: np.ndarray, column_draws: np.ndarray, keep: np.ndarray | None = None
) -> np.ndarray:
    """Return one pixel of every cell of a G x G grid, as ascending flat positions int64 ``[G*G]``.

    ``size`` = (S, S). The cells' side is S // G; rows and columns from G * side on are never chosen. Entry ``[g,i]`` of the
    draws ``[G,G]`` places the pixel of row band i and column band g, from 0 to side - 1. Pixels where ``keep`` ``[S,S]`` is not 1
    are left out. Raises ValueError unless ``size`` is square.
    """
    if size[0] != size[1]:
        raise ValueError(f"pixels are selected on square crops, not on {size[0]} x {size[1]}")
    side = size[0] // len(row_draws)
    bands = np.arange(len(row_draws)) * side
    rows, columns = bands[None] + row_draws, bands[:, None] + column_draws
    pixels = np.sort((rows * size[1] + columns).ravel())
    return pixels if keep is None else pixels[keep.ravel()[pixels] == 1]


class Draws(Protocol):
    """The random decisions of one step; tests replay recorded ones."""

    def mix_masks(self, batch: int, size: Size) -> np.ndarray | None:
        """Return ``[batch,H,W]`` bool, true = keep the own pixel, or None when this step does not mix."""

    def pixels(self, size: Size) -> np.ndarray:
        """Return the flat positions of :func:`select_pixels`, the same for all images of the step."""


class StepDraws:
    """Draws of a step (CutMix boxes, chosen pixels) from generators keyed by (seed, epoch, step, group)."""

    def __init__(self, settings: PCRSettings, seed: int, clock: Clock, group: int = 0) -> None:
        self.settings = settings
        self._mixing = generator(seed, "pcr mixing", clock.epoch, clock.step, group)
        self._pixels = generator(seed, "pcr pixels", clock.epoch, clock.step, group)

    def mix_masks(self, batch: int, size: Size) -> np.ndarray | None:
        """See :class:`Draws`."""
        if self._mixing.random() >= self.settings.cutmix_prob:
            return None
        return np.stack([box_mask(size, draw_half_area_box(size, self._mixing)) for _ in range(batch)])

    def pixels(self, size: Size) -> np.ndarray:
        """See :class:`Draws`."""
        cells = self.settings.select_granularity
        draws = self._pixels.integers(size[0] // cells, size=(cells, 2, cells))
        return select_pixels(size, draws[:, 0], draws[:, 1])
