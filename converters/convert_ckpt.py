"""Convert checkpoints between formats (by suffix) and layouts, bit for bit, or say what one is; see ``--help``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from common.checkpoints.formats import SUFFIXES
from common.checkpoints.layouts import DIALECTS
from common.command_line import run_command, user_path
from common.errors import UserError
from common.experiment import compose
from converters.convert import convert, summary


def _parser() -> argparse.ArgumentParser:
    layouts = "\n".join(f"  {name:14} {dialect.description}" for name, dialect in DIALECTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m converters.convert_ckpt",
        usage="%(prog)s [options] IN OUT [a.b=c ...] | --format SUFFIX FOLDER FOLDER | --inspect FILE",
        description="Convert checkpoints between .pth, .ckpt and .safetensors and between layouts, bit for bit.",
        epilog=f"layouts:\n{layouts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", type=user_path, metavar="IN", nargs="?", help="the file to read, or a folder of files"
    )
    parser.add_argument(
        "target", type=user_path, metavar="OUT", nargs="?", help="the file to write, by its suffix; or folder"
    )
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings over those of --experiment")
    parser.add_argument(
        "--inspect", type=user_path, metavar="FILE", help="only say what a checkpoint is; nothing in it runs"
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

        convert_folder(options.source, options.target, options.format, settings)
        return
    if options.format:
        raise UserError(f"--format is for folders; {options.source} is not one, its OUT says the format")
    checkpoint, left = convert(options.source, options.target, **settings)
    print(summary(options.target, checkpoint, left))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
