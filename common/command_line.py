"""What every command shares: how it ends, its options, and how one command runs another."""

from __future__ import annotations

import argparse
import contextlib
import errno
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, TypeVar

from common.errors import CheckFailed, Interrupted, UserError
from common.paths import PROJECT, at_home

EXTRAS = {
    "torch": "torch", "mindspore": "mindspore", "onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx",
    "starlette": "serve", "uvicorn": "serve", "prometheus_client": "serve",
}  # fmt: skip
"""Packages that a command may need, and the extra of ``pyproject.toml`` that brings them."""


Item = TypeVar("Item")

GRACE = 2.0
"""Seconds in which a process that a terminal has told to end may do so without being told again."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_MEMORY = (
    "out of memory", "allocate memory", "not enough memory", "insufficient memory", "bad allocation", "bad_alloc",
    "memory is not enough", "memory not enough",
)  # fmt: skip
"""What the frameworks say, in lower case, when memory runs out: they have no common exception for it."""


def ending_signals() -> list[int]:
    """Return the signals that ask this process to end: SIGTERM, and that of a terminal that goes away unless ``nohup`` ignores it."""
    hangup = getattr(signal, "SIGHUP", None)
    ignored = hangup is None or signal.getsignal(hangup) in (signal.SIG_IGN, None)
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, hangup]


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let the signals that ask for an end do what Ctrl-C does: a file that is being written is taken back."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {}
    # Only the main thread of a process hears signals.
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stop) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_command(
    main: Callable[[list[str] | None], int | None],
    arguments: list[str] | None = None,
    report: Callable[[str], None] | None = None,
) -> int:
    """Run a command's ``main`` and return the exit code, turning expected failures into one line on stderr, or for ``report``.

    Where nobody reads the output any more, the work goes on to its end; the exit code says that the output is not whole.
    """
    with _terminable(), _lasting_output() as lost:
        try:
            code, message = main(arguments) or 0, ""
        except CheckFailed as error:
            code, message = 1, str(error)
        except (Interrupted, KeyboardInterrupt) as error:
            code, message = 130, str(error) or "interrupted"
        except Exception as error:
            code, message = 2, str(as_user_error(error))
        sys.stdout.flush()
        if lost and code == 0:
            code, message = 2, f"the output {_how_lost(lost[0])}; everything else was done"
        if message and report:
            report(" ".join(message.split()))
        elif message:
            print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def as_user_error(error: Exception) -> UserError:
    """Return what the user or the machine is to blame for, in one line; raises ``error`` where it is a fault of the program."""
    if isinstance(error, UserError):
        return error
    first_line = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, MemoryError) or any(text in str(error).lower() for text in NO_MEMORY):
        return UserError(
            f"memory ran out ({first_line or type(error).__name__}): use smaller batches, crops or windows, or fewer workers"
        )
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return UserError(f"{error.name} is not installed; install the extra: pip install '.[{EXTRAS[error.name]}]'")
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return UserError(f"no space left while writing {error.filename or 'a file'}: free some space and run again")
    if isinstance(error, OSError):
        reason = error.strerror or first_line or type(error).__name__
        place = f"{error.filename}: " if error.filename is not None else ""
        return UserError(f"{place}{reason}; give a path that can be used, or look at the disk")
    raise error


def _how_lost(error: OSError) -> str:
    if isinstance(error, BrokenPipeError):
        return "was closed before its end, as by head"
    return f"could not be written to its end ({error.strerror})"


class _Output:
    """A text stream whose reader or disk may give out: what cannot be written is dropped. None: there is no stream at all."""

    def __init__(self, stream: TextIO | None, lost: list[OSError]) -> None:
        # A file that is opened later must not get the number of a missing stream: libraries would print into it.
        self._stream, self._lost = stream or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"), lost

    def write(self, text: str) -> int:
        """Write ``text``, characters that the terminal does not know as their codes."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
        except UnicodeEncodeError as error:
            self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        return len(text)

    def flush(self) -> None:
        """Flush, or find out that it cannot be written."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        self._lost.append(error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _lasting_output() -> Iterator[list[OSError]]:
    """Let what is inside print to the end; yields why streams could not be written any more."""
    before, lost = (sys.stdout, sys.stderr), []
    sys.stdout, sys.stderr = (_Output(stream, lost) for stream in before)
    try:
        yield lost
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def project_environment() -> dict[str, str]:
    """Return the environment in which a process finds the project from any folder."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))}


def run_module(module: str, *arguments: str, show: bool = False) -> str:
    """Run ``python -m MODULE`` in the project and return what it printed (nothing with ``show``: it prints for itself).

    Raises :class:`UserError` or :class:`CheckFailed`, as the module did, with its last line.
    """
    print(f"running {module} {' '.join(arguments[:1])}", file=sys.stderr, flush=True)
    command, pipe = [sys.executable, "-m", module, *arguments], None if show else subprocess.PIPE
    with subprocess.Popen(command, env=project_environment(), stdout=pipe, stderr=pipe, text=True) as process:
        try:
            out, err = process.communicate()
        except KeyboardInterrupt:
            pass_on_the_end(process)
            raise
    code = process.returncode
    if code < 0:
        raise UserError(
            f"{module} was ended by signal {-code} ({signal.Signals(-code).name}), most likely because "
            "memory ran out; use smaller batches or crops, or close other programs"
        )
    if code:
        lines = ((err or "").strip() or (out or "").strip() or "see above").splitlines()
        raise (UserError if code == 2 else CheckFailed)(f"{module}: {lines[-1].removeprefix('error: ')}")
    return out or ""


def pass_on_the_end(process: subprocess.Popen) -> int:
    """Let a process that this one has started end as it was asked to itself, so that a training saves; return its exit code.

    Ctrl-C in a terminal has reached it, too; if it still runs a moment later it gets SIGTERM. Who is asked again still waits.
    """
    asked = False
    while process.poll() is None:
        with contextlib.suppress(KeyboardInterrupt):
            try:
                process.communicate(timeout=None if asked else GRACE)
            except subprocess.TimeoutExpired:
                asked = True
                process.terminate()
    return process.returncode


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


def user_path(text: str) -> Path:
    """Return a path, ``~`` being the user's home; for ``type=`` of argparse, because a shell leaves ``--option=~/x`` alone."""
    try:
        return at_home(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def number(low: float, high: float = math.inf, kind: type = float) -> Callable[[str], Any]:
    """Return a reader of numbers in ``low..high``, of whole ones with ``kind`` int; for ``type=`` of argparse."""

    def read(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            wrong = f"is not at least {low:g}" if high == math.inf else f"does not lie in {low:g}..{high:g}"
            raise argparse.ArgumentTypeError(f"{text} {wrong}")
        return value

    read.__name__ = "whole number" if kind is int else "number"  # argparse: invalid NAME value
    return read


positive = number(1, kind=int)
