"""Convert a checkpoint between formats (by suffix) and layouts, bit for bit; see ``--help``."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from common.checkpoints import SINGLE, Checkpoint, capacity, file_format, find_dialect, read, write
from common.dialects import DIALECTS
from common.errors import UserError, run_command
from common.files import sha256
from common.tensors import listing


def convert(
    source: Path, target: Path, *, source_dialect: str | None = None, target_dialect: str | None = None,
    role: str | None = None, unsafe: bool = False,
) -> tuple[Checkpoint, list[str]]:  # fmt: skip
    """Read ``source``, write ``target``; return what was written and the names of what was left behind.

    A target that holds fewer networks than the source gets the one to deploy, unless ``role`` names another. Raises
    :class:`UserError` for whatever cannot be read, named or held by the target, which then stays as it was.
    """
    room = capacity(target, target_dialect)
    found = read(source, source_dialect, unsafe=unsafe)
    narrow = role is not None or room == 1 or (room is not None and len(found.networks) > room)
    written = found.only(role, str(source)) if narrow else found
    if target_dialect and not find_dialect(target_dialect).own:
        places = find_dialect(target_dialect).state
        state = {name: array for name, array in written.state.items() if name in places}
        written = dataclasses.replace(written, state=state)
    save(target, written, target_dialect)
    kept = {written.meta.get("role"), *written.networks}
    left = [name for name in found.networks if name not in kept]
    left += [name for name in found.state if name not in written.state]
    return written, left + list(found.not_read)


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
    return str(checkpoint.meta.get("role", role)) if role == SINGLE else role


def _parser() -> argparse.ArgumentParser:
    layouts = "\n".join(f"  {name:14} {dialect.description}" for name, dialect in DIALECTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m converters.convert_ckpt",
        description="Convert a checkpoint between .pth, .ckpt and .safetensors and between layouts, bit for bit.",
        epilog=f"layouts:\n{layouts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="IN", help="the file to read")
    parser.add_argument("target", type=Path, metavar="OUT", help="the file to write; its suffix is its format")
    parser.add_argument("--from", dest="source_dialect", metavar="LAYOUT", help="layout of IN (default: recognised)")
    parser.add_argument("--to", dest="target_dialect", metavar="LAYOUT", help="layout of OUT (default: our own)")
    parser.add_argument("--role", help="network to keep: teacher, student, branch1... (default: all OUT can hold)")
    parser.add_argument("--unsafe", action="store_true", help="let IN run code: only if you trust its origin")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert one file and print what was written."""
    options = _parser().parse_args(arguments)
    checkpoint, left = convert(
        options.source, options.target, source_dialect=options.source_dialect, target_dialect=options.target_dialect,
        role=options.role, unsafe=options.unsafe,
    )  # fmt: skip
    print(summary(options.target, checkpoint, left))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
