"""UniMatch v1: settings, shared by both frameworks (its ``unimatch.py``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.methods.uccl.weak_to_strong import WeakToStrongSettings


@dataclass(frozen=True, kw_only=True)
class UniMatchSettings(WeakToStrongSettings):
    """Settings of UniMatch: two strong views and a view with dropped features."""

    name: Literal["unimatch"] = "unimatch"
