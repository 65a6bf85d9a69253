"""Dropout masks drawn on the host: the same in every framework, and repeated exactly when a run is resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from common.arrays import Size
from common.errors import UserError


class Site(Protocol):
    """A dropout layer: probability, kind (``channel`` or ``element``), number of channels, and where its map comes from.

    ``place`` is a key of :func:`common.networks.plan.map_sizes`.
    """

    p: float
    kind: str
    channels: int
    place: str


def draw_masks(
    sites: Sequence[Site], batch: int, rng: np.random.Generator, sizes: Mapping[str, Size] | None = None
) -> list[np.ndarray]:
    """Return one float32 mask per site: 0 with probability p, else 1/(1-p).

    ``[batch,C,1,1]`` for dropout of channels, ``[batch,C,h,w]`` for that of elements, which needs ``sizes``: the maps'
    sizes by place.
    """
    if sizes is None and any(site.kind == "element" for site in sites):
        raise UserError(
            "this method draws dropout masks for whole channels only; set network.aspp_dropout_kind=channel and "
            "network.head_dropout_kind=channel"
        )
    masks = []
    for site in sites:
        size = (1, 1) if site.kind == "channel" else sizes[site.place]
        kept = rng.random((batch, site.channels, *size), np.float32 if site.kind == "element" else np.float64) >= site.p
        masks.append(kept * np.float32(1 / (1 - site.p)))
    return masks
