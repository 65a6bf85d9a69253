"""Supervised-only baseline: labelled images, cross entropy or OHEM, nothing else (U2PL's ``train_sup.py``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from common.config.loaders import LabelledList
from common.config.schema import AugmentConfig
from common.methods.interface import OWN_LABEL, MethodSettings, Stream
from common.methods.weak_crop import WeakCrop


@dataclass(frozen=True, kw_only=True)
class SupOnlySettings(MethodSettings):
    """The baseline has no settings of its own."""

    augment: ClassVar = WeakCrop
    loader: ClassVar = LabelledList
    heads: ClassVar = ("auxiliary",)

    name: Literal["suponly"] = "suponly"

    def streams(self, augment: AugmentConfig) -> tuple[Stream, ...]:
        """The labelled images with weak augmentation."""
        return (Stream(name="labelled", source="labelled", pipeline=augment, labels=OWN_LABEL),)
