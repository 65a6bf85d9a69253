"""Supervised-only baseline: labelled images, cross entropy or OHEM, nothing else (``specs/u2pl.md`` section 11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.methods.interface import MethodSettings, Stream


@dataclass(frozen=True, kw_only=True)
class SupOnlySettings(MethodSettings):
    """The baseline has no settings of its own."""

    name: Literal["suponly"] = "suponly"

    def streams(self) -> tuple[Stream, ...]:
        """The labelled images with weak augmentation."""
        return (Stream(name="labelled", source="labelled", pipeline="weak", labels=("label",)),)
