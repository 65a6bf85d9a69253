"""FixMatch: settings, shared by both frameworks (UniMatch's ``fixmatch.py``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from common.methods.uccl.weak_to_strong import WeakToStrongSettings


@dataclass(frozen=True, kw_only=True)
class FixMatchSettings(WeakToStrongSettings):
    """Settings of FixMatch: one strong view."""

    strong_views: ClassVar[int] = 1

    name: Literal["fixmatch"] = "fixmatch"
