"""A training command that a launcher has started in several processes: how each ends, and what it leaves for the launcher.

``experiments/launch.py`` makes a folder and names it in the environment. Every process writes its number there, and how it ended:
the exit code and the one line that a single process would have printed, and what else it says. The command that the user has started
prints one of the lines and ends as a single process does.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from common.command_line import run_command
from common.files import write_json_atomic

FOLDER, PATIENCE = "PROCESSES_FOLDER", "PROCESSES_PATIENCE"
"""Environment variables: the folder of a launch, and after how many seconds a process that waits for others gives up."""

DEFAULT_PATIENCE = 600
LATE = ("timed out", "timeout")
LOST = (*LATE, "connection", "socket", "remote process exited", "nccl", "gloo", "mccl", "hccl", "heartbeat")
"""What the errors of a collective operation say, in lower case, when another process does not come, or is gone."""


def patience() -> int:
    """Return after how many seconds a process that waits for the others gives up."""
    return int(os.environ.get(PATIENCE, DEFAULT_PATIENCE))


@dataclass(frozen=True)
class End:
    """How a process ended: ``lost`` if only because another one is gone, or (``late``) did not come; ``time`` in seconds."""

    code: int
    message: str
    lost: bool
    late: bool
    time: float


def run_process(main: Callable[[list[str] | None], int | None], number: int, leave: Callable[[], None]) -> int:
    """Run a command's ``main`` in process ``number``; without a launcher return its exit code, as :func:`run_command` does.

    A process of a launch ends here. ``leave`` is called at a good end, to which all come.
    """
    if FOLDER not in os.environ:
        return run_command(main)
    folder = Path(os.environ[FOLDER])
    (folder / f"pid-{number}").write_text(str(os.getpid()))
    threading.Thread(target=_end_with_launcher, args=(os.getppid(),), daemon=True).start()
    _write_into(folder / f"said-{number}")
    said: list[str] = []
    lost = late = False
    try:
        code = run_command(main, report=said.append)
    except Exception as error:
        text = " ".join(str(error).split())
        code, lost = 1, any(word in text.lower() for word in LOST)
        late = lost and any(word in text.lower() for word in LATE)
        if late:
            said = [
                f"process {number} has waited {patience()} s for the others, which did not come (--patience S for longer)"
            ]
        elif lost:
            said = [f"process {number} has lost the others ({type(error).__name__}: {text[:200]})"]
        else:
            said = [f"process {number}: {type(error).__name__}: {text}"]
            traceback.print_exc()
    end = End(code=code, message=" ".join(said), lost=lost, late=late, time=time.time())
    write_json_atomic(folder / f"end-{number}", asdict(end))
    if code == 0:
        with suppress(Exception):  # all is written, and another process may have been killed meanwhile
            leave()
    end_here(code)


def end_here(code: int) -> NoReturn:
    """End this process without the interpreter's way out, which may wait for processes that are gone, or fail after all is done."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code == 0:
        with open(
            os.devnull, "w"
        ) as nowhere:  # the last line is the command's, not what a framework says of its threads
            os.dup2(nowhere.fileno(), 2)
        atexit._run_exitfuncs()  # MindSpore takes leave of its scheduler there
    os._exit(code)


def ends(folder: Path) -> dict[int, End]:
    """Return how the processes of a launch ended, by number, those that said so."""
    return {
        int(path.name.removeprefix("end-")): End(**json.loads(path.read_text()))
        for path in sorted(folder.glob("end-*"))
    }


def pids(folder: Path) -> dict[int, int]:
    """Return the process ids of a launch by number."""
    by_number = {}
    for path in folder.glob("pid-*"):
        text = path.read_text()
        if text:
            by_number[int(path.name.removeprefix("pid-"))] = int(text)
    return by_number


def outcome(folder: Path, code: int, gone: Sequence[int] = ()) -> tuple[int | None, int, str]:
    """Return which process decides how a launch ended, whose launcher ended with ``code``, the exit code and the one line.

    That is the first process that failed by itself; else one that is gone without a word, which was killed (the first of
    ``gone``, which are in the order in which they ended: a launcher may kill the others then); else one that waited in vain. None: no
    process has begun. Where all say that they ended well the launcher's own code counts for nothing: a framework's way out of the
    interpreter may fail after everything is written.
    """
    known, started = ends(folder), pids(folder)
    if started and started.keys() <= known.keys() and not any(end.code for end in known.values()):
        return 0, 0, ""

    def first(lost: bool) -> int | None:
        numbers = [number for number, end in known.items() if end.code and end.lost == lost]
        return min(numbers, key=lambda number: known[number].time, default=None)

    failed, waited = first(lost=False), first(lost=True)
    wordless = started.keys() - known.keys()
    silent = next((number for number in gone if number in wordless), min(wordless, default=None))
    if failed is None and silent is not None and not (waited is not None and known[waited].late):
        return (
            silent,
            137,
            (
                f"process {silent} of {len(started)} was killed, most likely because memory ran out; the others have ended, and the "
                "last checkpoint is whole: --resume continues from it"
            ),
        )
    number = waited if failed is None else failed
    if number is not None:
        return number, known[number].code, known[number].message
    return (0 if started else None), code, "" if code == 0 else f"the launcher ended with code {code}"


def _end_with_launcher(parent: int) -> None:
    """Ask this process to save and stop when its launcher is gone: nobody else would."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    print("the launcher is gone: saving and stopping", file=sys.stderr, flush=True)


def _write_into(path: Path) -> None:
    """Let everything that this process says on stderr go into a file; ``experiments/launch.py`` shows the first one's."""
    sys.stderr.flush()
    with path.open("a") as file:
        os.dup2(file.fileno(), 2)
