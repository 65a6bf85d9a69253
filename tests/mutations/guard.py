"""Running a command where it cannot hang or fill the memory, and seeing what it runs, writes and leaves."""

from __future__ import annotations

import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common.command_line import run_command

PATIENCE = 300
"""Seconds after which a command counts as hung; hundreds of times what one needs."""
ROOM = 6 << 30
"""Bytes that a command may take beside what the process has already; more ends as on a machine without memory."""
STARTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
)
"""What no file may bring a command to."""
HARMLESS = ("lscpu", "fc-list")
"""What MindSpore and Matplotlib ask for when they are loaded."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "shutil.rmtree",
}

_watching: list[Watch] = []


@dataclass
class Watch:
    """What was seen while a command ran: code that was started, and files that were changed outside of ``folder``."""

    folder: str
    seen: list[str] = field(default_factory=list)

    def see(self, event: str, arguments: tuple) -> None:
        """Take note of an audit event of Python."""
        if event in STARTS and arguments[0] not in HARMLESS:
            self.seen.append(f"{event} {arguments!r:.200}")
        if event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES):
            path = arguments[0]
            if isinstance(path, (str, bytes, os.PathLike)):
                path = os.path.abspath(os.fsdecode(path))
                if not path.startswith((self.folder, os.devnull)) and "__pycache__" not in path:
                    self.seen.append(f"{event} {path}")


def _hook(event: str, arguments: tuple) -> None:
    if _watching:
        _watching[-1].see(event, arguments)


# A hook stays for the life of the process; it looks only while something is watched.
sys.addaudithook(_hook)


@contextmanager
def watched(folder: Path) -> Iterator[Watch]:
    """See what happens inside; ``folder`` is where files may be changed."""
    watch = Watch(os.path.realpath(folder))
    _watching.append(watch)
    try:
        yield watch
    finally:
        _watching.pop()


@contextmanager
def limited() -> Iterator[None]:
    """A time after which ``TimeoutError`` is raised, and memory that comes to an end."""

    def hung(number, frame) -> None:
        raise AssertionError(f"hung for {PATIENCE} s")

    before, limits = signal.signal(signal.SIGALRM, hung), resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if os.path.exists("/proc/self/statm") else None
    if pages is not None:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, limits[1]))
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below ``folder`` with the bytes of an ordinary file of usual size, None for anything else."""
    entries: dict[str, bytes | None] = {}
    for path in folder.rglob("*"):
        ordinary = path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 27
        entries[path.relative_to(folder).as_posix()] = path.read_bytes() if ordinary else None
    return entries


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, the files that came, went or changed, and what the watch saw."""

    code: int
    new: tuple[str, ...]
    lost: tuple[str, ...]
    seen: tuple[str, ...]
    warned: tuple[str, ...]


def run(main: Callable, arguments: list[str], home: Path) -> Outcome:
    """Run a command in ``home``, watched and limited."""
    before = contents(home)
    with watched(home) as watch, limited(), warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("default")
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", hidden)
        code = run_command(main, arguments)
    after = contents(home)
    return Outcome(
        code=code,
        new=tuple(sorted(after.keys() - before.keys())),
        lost=tuple(name for name in before if name not in after or after[name] != before[name]),
        seen=tuple(watch.seen),
        warned=tuple(f"{warning.category.__name__}: {warning.message}" for warning in raised),
    )
