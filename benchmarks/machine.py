"""What every benchmark file states: command, commit, machine, versions, date, load."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_json, write_json_atomic
from common.machine import describe
from common.paths import PROJECT


def save(name: str, command: str, figures: Mapping[str, Any]) -> Path:
    """Write ``benchmarks/NAME-DATE.json`` with ``figures``, the command that made them, commit, machine and load; return its path."""
    statement = stated(command)
    path = PROJECT / "benchmarks" / f"{name}-{statement['machine']['date']}.json"
    write_json_atomic(path, statement | {"figures": figures})
    print(f"written {path.relative_to(PROJECT)}")
    return path


def command_of(module: str, arguments: Sequence[str] | None = None) -> str:
    """Return the line that runs ``benchmarks.MODULE`` with ``arguments`` (default: those of this process)."""
    words = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["python", "-m", f"benchmarks.{module}", *words])


def stated(command: str) -> dict[str, Any]:
    """Return ``command``, the commit, and the machine with versions, date and load."""
    machine = describe() | {"load": [round(value, 1) for value in os.getloadavg()]}
    commit = subprocess.run(["git", "-C", str(PROJECT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {"command": command, "commit": commit.stdout.strip() or None, "machine": machine}


class Kept:
    """Figures by name in a file like those of :func:`save`, which is written as each comes: after a break the rest is measured.

    Without a path nothing is kept. Raises :class:`UserError` for a file that holds something else.
    """

    def __init__(self, path: Path | None, command: str) -> None:
        self.path, self.command, self.figures = path, command, {}
        if path and path.exists():
            try:
                self.figures = dict(read_json(path)["figures"])
            except (OSError, ValueError, KeyError, TypeError):
                raise UserError(f"{path} holds no figures of an earlier run: name another file, or remove it") from None

    def figure(self, name: str, measure: Callable[[], Any] | None = None) -> Any:
        """Return what is kept under ``name``; else what ``measure`` gives, which is kept then; without it None."""
        if name not in self.figures and measure:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            self.figures[name] = measure()
            if self.path:
                write_json_atomic(self.path, stated(self.command) | {"figures": self.figures})
        return self.figures.get(name)
