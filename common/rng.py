"""Every random decision of a run: NumPy generators keyed by what they decide, with no hidden state."""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """Return the generator for one decision.

    ``purpose`` names the decision (``"crop"``, ``"cutmix"``); ``key`` is usually (epoch, step, process). The same
    arguments always give the same stream, in every framework and process, so resuming at any step needs no saved state.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode("utf-8")), *key])


def group_generator(seed: int, purpose: str, epoch: int, step: int, group: int) -> np.random.Generator:
    """Return the generator of a group of a batch for one decision of a step; the first group's has no number in its key."""
    return generator(seed, purpose, epoch, step, *([group] if group else []))
