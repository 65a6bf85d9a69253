"""Networks kept epoch by epoch, and their evaluation: one of them, a range of epochs, all from an epoch on.

Epochs count from 0 (``specs/cpcl.md`` section 8.1): ``snapshots/epoch-12.pth`` of a run folder is what the 13th epoch left.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.config import TrainerConfig
from common.errors import UserError
from common.files import write_json_atomic, write_text_atomic
from common.pictures import line_chart
from common.runs import RunFolder

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
        found = [folder.last(suffix) for folder in folders for suffix in suffixes if folder.last(suffix).is_file()]
        if not found:
            raise UserError(f"no last checkpoint in {_names(folders)}; train first, or name its folder with --run-dir")
        return [(None, found[0])]
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


def write_summary(results: dict[int, dict[str, Any]], folder: Path) -> str:
    """Write ``epochs.json`` and the curve ``epochs.svg`` over all results by epoch, and return them as a table."""
    columns = {
        "mIoU": "miou",
        "mIoU without the first class": "miou_without_first",
        "pixel accuracy": "pixel_accuracy",
    }
    rows = {
        epoch: {name: content[key] for name, key in columns.items()} | {"checkpoint": content["checkpoint"]["path"]}
        for epoch, content in results.items()
    }
    best = max(results, key=lambda epoch: results[epoch]["miou"])
    write_json_atomic(folder / "epochs.json", {"best_epoch": best, "epochs": rows})
    series = {name: [(epoch, _percent(row[name])) for epoch, row in rows.items()] for name in columns}
    write_text_atomic(folder / "epochs.svg", line_chart("Scores of the snapshots", series, "epoch", "%"))
    lines = ["epoch  " + "  ".join(columns)]
    for epoch, row in rows.items():
        scores = "  ".join(f"{_percent(row[name]):{len(name)}.3f}" for name in columns)
        lines.append(f"{epoch:5}  {scores}{'  best' if epoch == best else ''}")
    return "\n".join(lines)


def _percent(score: float | None) -> float:
    return float("nan") if score is None else 100 * score
