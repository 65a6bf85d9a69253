"""A folder of checkpoints converted in one go: progress, a table at the end, and no half file if it is interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.checkpoints.checkpoint import Checkpoint
from common.checkpoints.formats import SUFFIXES
from common.command_line import as_user_error, track
from common.errors import CheckFailed, UserError
from converters.convert import convert


def convert_folder(source: Path, target: Path, suffix: str | None, settings: dict[str, Any]) -> None:
    """Convert every checkpoint below ``source`` to the same place below ``target``, with ``suffix`` as its format.

    ``settings`` are the keywords of :func:`converters.convert.convert`. A file that cannot be converted does not
    stop the others: the table says why, and :class:`CheckFailed` is raised at the end.
    """
    if suffix is None:
        raise UserError(
            f"{source} is a folder; say the format of the files to write: --format .pth, .ckpt, .safetensors"
        )
    plan = targets(source, target, suffix)
    rows, failed = [], 0
    for path in track(plan, "convert", unit="file"):
        name = str(path.relative_to(source))
        try:
            written, left = convert(path, plan[path], **settings)
        except Exception as error:
            failed += 1
            rows.append((name, "NOT CONVERTED", "", str(as_user_error(error))))
            continue
        note = f"left behind: {len(left)}" if left else ""
        size = f"{plan[path].stat().st_size / 1e6:.1f} MB"
        rows.append((name, layout_of(written), size, " ".join([networks_of(written), note]).strip()))
    print(format_rows([("file", "layout", "size", "networks"), *rows]))
    print(f"{len(plan) - failed} of {len(plan)} files written to {target}")
    if failed:
        raise CheckFailed(f"{failed} of {len(plan)} files could not be converted; the table says why")


def targets(source: Path, target: Path, suffix: str) -> dict[Path, Path]:
    """Return the file to write for every checkpoint below ``source``, sorted; what lies below ``target`` is left out.

    Raises :class:`UserError` where there is none, or two would be written to one place.
    """
    plan: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for path in sorted(source.rglob("*")):
        ending = next((end for end in SUFFIXES if path.name.lower().endswith(end)), None)
        if ending is None or path.name.startswith(".") or not path.is_file():
            continue
        if target != source and target in path.parents:
            continue
        name = path.name[: -len(".pth.tar")] if path.name.lower().endswith(".pth.tar") else path.name[: -len(ending)]
        goal = target / path.relative_to(source).parent / f"{name}{suffix}"
        if goal in taken:
            raise UserError(f"{taken[goal]} and {path} would both be written to {goal}; rename one or convert it alone")
        if goal == path:
            raise UserError(f"{path} would be written over itself; choose another folder")
        plan[path], taken[goal] = goal, path
    if not plan:
        raise UserError(f"{source}: no checkpoint below it; looked for {', '.join(SUFFIXES)}")
    return plan


def layout_of(checkpoint: Checkpoint) -> str:
    """Return the layout that a file was read in."""
    return checkpoint.meta.origin.dialect if checkpoint.meta.origin else "this project"


def networks_of(checkpoint: Checkpoint) -> str:
    """Return the networks with their numbers of tensors."""
    roles = {role: checkpoint.meta.role or role if checkpoint.deployable else role for role in checkpoint.networks}
    return ", ".join(f"{roles[role]} {len(tensors)}" for role, tensors in checkpoint.networks.items())


def format_rows(rows: list[tuple[str, ...]]) -> str:
    """Return rows as text in columns; the last column is as wide as it wants."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]]) for row in rows)
