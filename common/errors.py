"""How every command ends: 0 for success, 1 for a failed check, 2 for bad use; one line to the user."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

EXTRAS = {"torch": "torch", "mindspore": "mindspore", "onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx"}
"""Packages that a command may need, and the extra of ``pyproject.toml`` that brings them."""

UNUSABLE_PATH = (PermissionError, FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)


class UserError(Exception):
    """Something the user can put right; the text is one line: what is wrong, where, what to do."""


class CheckFailed(Exception):
    """A check ran to its end and its answer is no (a parity gate, a verification)."""


class Interrupted(Exception):
    """A run was asked to stop (SIGTERM, Ctrl-C) and has saved its state."""


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
