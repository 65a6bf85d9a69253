"""Converting one checkpoint: read, describe, save in another format or layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from common.checkpoints.branches import CLASS_BRANCH, SUBCLASS_BRANCH
from common.checkpoints.checkpoint import Checkpoint, capacity, find_dialect, read, write
from common.checkpoints.describe import described
from common.checkpoints.formats import SINGLE, file_format
from common.checkpoints.meta import CheckpointMeta
from common.config.schema import ExperimentConfig
from common.errors import UserError
from common.files import sha256
from common.networks.tensors import listing


def convert(
    source: Path, target: Path, *, source_dialect: str | None = None, target_dialect: str | None = None,
    role: str | None = None, unsafe: bool = False, experiment: ExperimentConfig | None = None,
) -> tuple[Checkpoint, list[str]]:  # fmt: skip
    """Read ``source``, write ``target``; return what was written and the names of what was left behind.

    A target that holds fewer networks than the source gets the one to deploy, unless ``role`` names another. A file of
    another program is described by ``experiment``, else by what its names and shapes tell. Raises :class:`UserError`
    for whatever cannot be read, named or held by the target, which then stays as it was.
    """
    room = capacity(target, target_dialect)
    checkpoint = described_by(read(source, source_dialect, unsafe=unsafe), experiment)
    narrow = role is not None or room == 1 or (room is not None and len(checkpoint.networks) > room)
    written = checkpoint.only(role, str(source)) if narrow else checkpoint
    if target_dialect and not find_dialect(target_dialect).native:
        places = find_dialect(target_dialect).wrapper.state
        state = {name: array for name, array in written.state.items() if name in places}
        written = dataclasses.replace(written, state=state)
    save(target, written, target_dialect)
    kept = {written.meta.role, *written.networks}
    left = [name for name in checkpoint.networks if name not in kept]
    left += [name for name in checkpoint.state if name not in written.state]
    left += [f"all but the {role} branch"] if role in (CLASS_BRANCH, SUBCLASS_BRANCH) else []
    return written, left + list(checkpoint.not_read)


def described_by(checkpoint: Checkpoint, experiment: ExperimentConfig | None) -> Checkpoint:
    """Add the description of an experiment, or what names and shapes tell, to a file that does not describe itself."""
    if experiment is None:
        return described(checkpoint)
    told = CheckpointMeta.from_experiment(experiment)
    return dataclasses.replace(checkpoint, meta=checkpoint.meta.completed_by(told))


def save(path: Path, checkpoint: Checkpoint, dialect: str | None = None) -> None:
    """Write a checkpoint of any format; only ``.pth`` needs PyTorch."""
    if file_format(path) != ".pth":
        write(path, checkpoint, dialect)
        return
    try:
        from torch_impl.checkpoint import save_checkpoint
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UserError(f"writing {path} needs PyTorch; install the extra torch, or write another format") from None
    save_checkpoint(path, checkpoint, dialect)


def summary(target: Path, checkpoint: Checkpoint, left: Sequence[str]) -> str:
    """Return one line: what the file holds, what of the source it does not, and its SHA-256."""
    counts = [f"{_role(role, checkpoint)} {len(tensors)} tensors" for role, tensors in checkpoint.networks.items()]
    if checkpoint.state:
        counts.append(f"state {len(checkpoint.state)} arrays")
    note = f"; not carried over: {listing(left)}" if left else ""
    return f"{target}: {', '.join(counts)}{note}; sha256 {sha256(target)}"


def _role(role: str, checkpoint: Checkpoint) -> str:
    return checkpoint.meta.role or role if role == SINGLE else role
