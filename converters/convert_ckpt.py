"""Convert checkpoints between formats (by suffix) and layouts, bit for bit, or say what one is; see ``--help``."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from common.checkpoints import SINGLE, SUFFIXES, Checkpoint, capacity, file_format, find_dialect, read, write
from common.config import ExperimentConfig
from common.dialects import DIALECTS
from common.dialects.describe import CLASS_BRANCH, SUBCLASS_BRANCH
from common.errors import UserError, run_command, terminable
from common.experiment import compose
from common.files import sha256
from common.stored_network import described
from common.strict import to_plain
from common.tensors import listing


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
    found = described_by(read(source, source_dialect, unsafe=unsafe), experiment)
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
    left += [f"all but the {role} branch"] if role in (CLASS_BRANCH, SUBCLASS_BRANCH) else []
    return written, left + list(found.not_read)


def described_by(checkpoint: Checkpoint, experiment: ExperimentConfig | None) -> Checkpoint:
    """Add the description of an experiment, or what names and shapes tell, to a file that does not describe itself."""
    if experiment is None:
        return described(checkpoint)
    meta = {
        "experiment": experiment.name,
        "network": to_plain(experiment.network),
        "classes": list(experiment.dataset.classes),
        "mean": list(experiment.augment.mean),
        "std": list(experiment.augment.std),
        "method": experiment.method.name,
    }
    return dataclasses.replace(checkpoint, meta=meta | checkpoint.meta)


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
        usage="%(prog)s [options] IN OUT [a.b=c ...] | --format SUFFIX FOLDER FOLDER | --inspect FILE",
        description="Convert checkpoints between .pth, .ckpt and .safetensors and between layouts, bit for bit.",
        epilog=f"layouts:\n{layouts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="IN", nargs="?", help="the file to read, or a folder of files")
    parser.add_argument(
        "target", type=Path, metavar="OUT", nargs="?", help="the file to write, by its suffix; or folder"
    )
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings over those of --experiment")
    parser.add_argument(
        "--inspect", type=Path, metavar="FILE", help="only say what a checkpoint is; nothing in it runs"
    )
    parser.add_argument("--from", dest="source_dialect", metavar="LAYOUT", help="layout of IN (default: recognised)")
    parser.add_argument("--to", dest="target_dialect", metavar="LAYOUT", help="layout of OUT (default: our own)")
    parser.add_argument(
        "--role", help="network to keep: teacher, student, branch1, branch2, or the branch class or subclass "
        "(default: all OUT can hold)",
    )  # fmt: skip
    parser.add_argument(
        "--experiment", metavar="NAME", help="what IN holds, e.g. voc/366/u2pl (default: what its shapes tell)"
    )
    parser.add_argument(
        "--format", choices=tuple(dict.fromkeys(SUFFIXES.values())), help="of the files that a folder is converted to"
    )
    parser.add_argument("--unsafe", action="store_true", help="let IN run code: only if you trust its origin")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert one file or a folder and print what was written, or inspect one file."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    if options.inspect is not None:
        from converters.inspect_ckpt import inspect

        print(inspect(options.inspect, options.source_dialect, options.unsafe))
        return
    if options.source is None or options.target is None:
        parser.error("name the file to read and the file to write, or --inspect FILE")
    if options.overrides and not options.experiment:
        raise UserError(f"{options.overrides[0]}: a setting needs --experiment NAME to change")
    settings = {
        "source_dialect": options.source_dialect,
        "target_dialect": options.target_dialect,
        "role": options.role,
        "unsafe": options.unsafe,
        "experiment": compose(options.experiment, options.overrides) if options.experiment else None,
    }
    if options.source.is_dir():
        from converters.convert_folder import convert_folder

        with terminable():
            convert_folder(options.source, options.target, options.format, settings)
        return
    if options.format:
        raise UserError(f"--format is for folders; {options.source} is not one, its OUT says the format")
    with terminable():
        checkpoint, left = convert(options.source, options.target, **settings)
    print(summary(options.target, checkpoint, left))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
