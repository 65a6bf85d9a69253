"""Networks kept epoch by epoch, and their evaluation: one of them, a range of epochs, all from an epoch on.

Epochs count from 0 (CPS and CPCL): ``snapshots/epoch-12.pth`` of a run folder is what the 13th epoch left.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from common.config.schema import TrainerConfig
from common.errors import UserError
from common.runs.run_folder import RunFolder

SELECTION = re.compile(r"last|(\d+)(-(\d*))?")
"""``last``, ``12``, ``20-30`` or ``20-``."""


def due(trainer: TrainerConfig, epoch: int) -> bool:
    """Whether a run keeps the networks of ``epoch``, which has just ended."""
    if trainer.snapshot_every is None:
        return False
    if epoch == trainer.epochs - 1:
        return True
    skipped = trainer.epochs // trainer.snapshot_after_part if trainer.snapshot_after_part else -1
    return epoch > skipped and epoch % trainer.snapshot_every == 0


def is_selection(text: str) -> bool:
    """Whether an option's text speaks of epochs and not of a file."""
    return SELECTION.fullmatch(text) is not None


def is_range(text: str) -> bool:
    """Whether it speaks of several epochs."""
    return is_selection(text) and "-" in text


def select(text: str, folders: Sequence[RunFolder], suffixes: Sequence[str]) -> list[tuple[int | None, Path]]:
    """Return epoch (None for ``last``) and file of each snapshot that ``text`` selects, in order of their epochs.

    The first folder that has any file of the kind counts, and in it the first suffix. Raises :class:`UserError` for a range
    that is none, and naming what there is where nothing fits.
    """
    match = SELECTION.fullmatch(text)
    if text == "last":
        files = [folder.last(suffix) for folder in folders for suffix in suffixes if folder.last(suffix).is_file()]
        if not files:
            raise UserError(f"no last checkpoint in {_names(folders)}; train first, or name its folder with --run-dir")
        return [(None, files[0])]
    first = int(match[1])
    end = first if match[2] is None else int(match[3]) if match[3] else None
    if match[3] and end <= first:
        raise UserError(f"--checkpoint {text}: a range goes from a lower to a higher epoch, e.g. {end}-{first}")
    kept = next((k for folder in folders for suffix in suffixes if (k := folder.kept_snapshots(suffix))), {})
    chosen = [(epoch, path) for epoch, path in kept.items() if epoch >= first and (end is None or epoch <= end)]
    if not chosen:
        there = ", ".join(map(str, kept)) or "none"
        raise UserError(
            f"--checkpoint {text}: no snapshot of such an epoch in {_names(folders)} (there: {there}); "
            "trainer.snapshot_every says which epochs are kept, --run-dir where to look"
        )
    return chosen


def _names(folders: Sequence[RunFolder]) -> str:
    return ", ".join(str(folder.path) for folder in folders)
