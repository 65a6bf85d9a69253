"""Dropout masks drawn on the host: the same in every framework, and repeated exactly when a run is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Site(Protocol):
    """A dropout layer: probability, kind (``channel`` or ``element``) and number of channels."""

    p: float
    kind: str
    channels: int


def draw_masks(sites: Sequence[Site], batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return one float32 mask ``[batch,C,1,1]`` per site: 0 with probability p, else 1/(1-p)."""
    masks = []
    for site in sites:
        if site.kind != "channel":
            raise NotImplementedError("host-drawn masks exist for channel dropout only")
        kept = rng.random((batch, site.channels, 1, 1)) >= site.p
        masks.append((kept / (1 - site.p)).astype(np.float32))
    return masks
