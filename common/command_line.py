"""What every command shares: how it ends, its options, and how one command runs another."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TypeVar

from common.errors import CheckFailed, Interrupted, UserError
from common.paths import PROJECT

EXTRAS = {"torch": "torch", "mindspore": "mindspore", "onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx"}
"""Packages that a command may need, and the extra of ``pyproject.toml`` that brings them."""


Item = TypeVar("Item")

UNUSABLE_PATH = (PermissionError, FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end what is inside as Ctrl-C does, so that a file that is being written is taken back."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_command(main: Callable[[list[str] | None], int | None], arguments: list[str] | None = None) -> int:
    """Run a command's ``main`` and return the exit code, turning expected failures into one line on stderr."""
    try:
        return main(arguments) or 0
    except UserError as error:
        message, code = str(error), 2
    except CheckFailed as error:
        message, code = str(error), 1
    except (Interrupted, KeyboardInterrupt) as error:
        message, code = str(error) or "interrupted", 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        message, code = f"{error.name} is not installed; install the extra: pip install '.[{EXTRAS[error.name]}]'", 2
    except UNUSABLE_PATH as error:
        message, code = f"{error.filename}: {error.strerror}; give a path that can be used", 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message, code = f"no space left while writing {error.filename or 'a file'}: free some space and run again", 2
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def run_module(module: str, *arguments: str, show: bool = False) -> str:
    """Run ``python -m MODULE`` in the project and return what it printed (nothing with ``show``: it prints for itself).

    Raises :class:`UserError` or :class:`CheckFailed`, as the module did, with its last line.
    """
    print(f"running {module} {' '.join(arguments[:1])}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", module, *arguments]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    }
    done = subprocess.run(command, env=environment, capture_output=not show, text=True)
    if done.returncode:
        lines = ((done.stderr or "").strip() or (done.stdout or "").strip() or "see above").splitlines()
        raise (UserError if done.returncode == 2 else CheckFailed)(f"{module}: {lines[-1].removeprefix('error: ')}")
    return done.stdout or ""


EXPERIMENT = "DATASET/SPLIT/METHOD, e.g. camvid/1_8/u2pl"


def experiment_arguments(
    parser: argparse.ArgumentParser, experiment: str = EXPERIMENT, settings: str = "settings, e.g. trainer.epochs=2"
) -> None:
    """Add an experiment's name and the settings over it; the texts say what they look like."""
    parser.add_argument("experiment", help=experiment)
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help=settings)


def track(
    items: Iterable[Item], what: str, *, unit: str = "image", total: int | None = None, plain: str = "", every: int = 0
) -> Iterator[Item]:
    """Pass ``items`` on and show on stderr how far they are: a bar called ``what`` on a terminal, else lines or nothing.

    A line reads ``PLAIN 3 of 10 images``; there is one after ``every`` items, by default about ten and one at the end.
    ``total`` is needed for items without a length.
    """
    total = len(items) if total is None else total
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=what, unit=unit, leave=False, file=sys.stderr)
        return
    for done, item in enumerate(items, 1):
        yield item
        if plain and (done % (every or -(-total // 10)) == 0 or (not every and done == total)):
            print(f"{plain} {done} of {total} {unit}s", file=sys.stderr, flush=True)


def positive(text: str) -> int:
    """Return a whole number of at least 1; for ``type=`` of argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value
