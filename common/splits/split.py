"""The record of a split's two lists."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Split:
    """Labelled and unlabelled image ids in canonical order, with the digests of both lists and where they come from.

    ``overlapping``: the unlabelled list is meant to hold the labelled images, too.
    """

    id: str
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    digest: str
    unlabelled_digest: str
    origin: str
    overlapping: bool = False
