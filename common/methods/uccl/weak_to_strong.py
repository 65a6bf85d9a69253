"""What FixMatch, UniMatch and UCCL share: settings, streams, dropout of features.

``preset: authors`` is what the authors' programs compute, ``fixed`` what ``docs/methods/uccl.md`` recommends; each
switch can be set alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from common.config.schema import AugmentConfig, NetworkConfig
from common.config.strict import ranged
from common.methods.interface import OWN_LABEL, Clock, MethodSettings, Stream
from common.methods.presets import Preset
from common.methods.uccl.augment import WeakToStrong
from common.networks.plan import stage_channels
from common.rng import group_generator


@dataclass(frozen=True, kw_only=True)
class CutMixSettings:
    """``partner``: ``same`` pastes another augmentation of the same image, ``batch_shift`` the next image of the batch."""

    partner: Literal["auto", "same", "batch_shift"] = "auto"


AUTHORS_CUTMIX, FIXED_CUTMIX = {"partner": "same"}, {"partner": "batch_shift"}
"""The switches of :class:`CutMixSettings` in either preset."""


@dataclass(frozen=True, kw_only=True)
class WeakToStrongSettings(MethodSettings):
    """Confidence threshold and CutMix partner; defaults are the authors' for VOC."""

    augment: ClassVar = WeakToStrong
    presets: ClassVar = {"authors": {"cutmix": AUTHORS_CUTMIX}, "fixed": {"cutmix": FIXED_CUTMIX}}
    strong_views: ClassVar[int] = 2

    preset: Preset = "authors"
    conf_thresh: float = ranged(0.95, low=0.0, high=1.0)
    cutmix: CutMixSettings = CutMixSettings()

    def streams(self, augment: AugmentConfig) -> tuple[Stream, ...]:
        """Labelled images, paired for good with unlabelled ones, which bring their strong views and CutMix partner."""
        views = augment.views(self.strong_views, partner=self.cutmix.partner == "same")
        return (
            Stream(name="labelled", source="labelled", pipeline=augment, labels=OWN_LABEL, follows="unlabelled"),
            Stream(name="unlabelled", source="unlabelled", pipeline=views),
        )


def feature_masks(network: NetworkConfig, batch: int, seed: int, clock: Clock, group: int = 0) -> list[np.ndarray]:
    """Return the masks of the feature dropout for the encoder's first and last stage, float32 ``[batch,C,1,1]``.

    They are drawn for one ``group``. Every channel of every image is dropped (0) with probability 1/2, else doubled.
    """
    rng = group_generator(seed, "feature dropout", clock.epoch, clock.step, group)
    channels: Sequence[int] = stage_channels(network)
    return [2 * (rng.random((batch, count, 1, 1)) < 0.5).astype(np.float32) for count in (channels[0], channels[-1])]
