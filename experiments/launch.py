"""Several training processes through the frameworks' own launchers, ``torchrun`` and ``msrun``: what ``experiments/train.sh`` calls.

The launcher starts, numbers and watches the processes. What it lacks is here: a free port, signals that reach the processes, one
line and the exit code of a single process at the end, and nothing left running. See ``docs/scale.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from common.command_line import number, positive, project_environment, run_command
from common.errors import UserError
from common.paths import PROJECT
from common.runtimes import FRAMEWORKS
from common.training.launched import DEFAULT_PATIENCE, FOLDER, PATIENCE, outcome, pids

GRACE = 30
"""Seconds that processes have to save and end after a signal or the failure of another one, before they are killed."""
PARTING = 5
"""Seconds that the launcher has to end once all processes have; MindSpore's waits much longer for processes that never met."""


def parser() -> argparse.ArgumentParser:
    """Return the argument parser; what it does not know is for the training command."""
    arguments = argparse.ArgumentParser(
        prog="experiments/train.sh", description=__doc__.splitlines()[0], allow_abbrev=False, add_help=False
    )
    arguments.add_argument("framework", choices=sorted(FRAMEWORKS))
    arguments.add_argument("--processes", type=positive, required=True, help="processes on this machine, one per GPU")
    arguments.add_argument("--nodes", type=positive, default=1, help="machines")
    arguments.add_argument("--node-rank", type=number(0, kind=int), default=0, help="number of this machine, from 0")
    arguments.add_argument("--rendezvous", default="", help="HOST:PORT of machine 0, the same on all machines")
    arguments.add_argument(
        "--patience", type=positive, default=DEFAULT_PATIENCE, help="seconds after which a process that waits gives up"
    )
    return arguments


def meeting_point(asked: argparse.Namespace) -> tuple[str, int]:
    """Return host and port where the processes meet: as asked, on one machine a free port of this one.

    Raises :class:`UserError` for several machines without a place or with a number that is none of theirs.
    """
    if asked.nodes == 1 and not asked.rendezvous:
        return "127.0.0.1", free_port()
    match = re.fullmatch(r"(.+):(\d+)", asked.rendezvous)
    if not match:
        raise UserError(
            f"--nodes {asked.nodes} needs --rendezvous HOST:PORT, the address of machine 0 and a free port there; "
            f"{asked.rendezvous!r} is none"
        )
    if not 0 <= asked.node_rank < asked.nodes:
        raise UserError(
            f"--node-rank {asked.node_rank}: {asked.nodes} machines have the numbers 0 to {asked.nodes - 1}"
        )
    return match[1], int(match[2])


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(asked: argparse.Namespace, arguments: list[str], place: tuple[str, int], logs: Path) -> list[str]:
    """Return the launcher's command line."""
    host, port = place
    module = f"{asked.framework}_impl.train"
    if asked.framework == "torch":
        return [
            sys.executable, "-m", "torch.distributed.run", f"--nnodes={asked.nodes}", f"--node-rank={asked.node_rank}",
            f"--nproc-per-node={asked.processes}", f"--master-addr={host}", f"--master-port={port}", "-m", module, *arguments,
        ]  # fmt: skip
    nodes = [f"--node_rank={asked.node_rank}"] if asked.nodes > 1 else []
    return [
        str(Path(sys.executable).with_name("msrun")), f"--worker_num={asked.processes * asked.nodes}",
        f"--local_worker_num={asked.processes}", f"--master_addr={host}", f"--master_port={port}", *nodes,
        "--bind_core=True", f"--log_dir={logs}", "--join=True", str(PROJECT / "experiments" / "run_module.py"), module,
        *arguments,
    ]  # fmt: skip


def with_python() -> str:
    """Return the search path with this interpreter first: MindSpore's launcher starts whatever ``python`` is."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def launch(asked: argparse.Namespace, arguments: list[str]) -> int:
    """Run the processes to their end and return the exit code that a single one would have had, after its line."""
    place = meeting_point(asked)
    with tempfile.TemporaryDirectory(prefix="processes-") as name:
        folder, logs = Path(name), Path(name) / "logs"
        environment = project_environment() | {
            FOLDER: name, PATIENCE: str(asked.patience), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "PATH": with_python(),
        }  # fmt: skip
        # A session of its own: Ctrl-C in a terminal reaches this process only, which passes it on.
        launcher = subprocess.Popen(
            command(asked, arguments, place, logs), env=environment, start_new_session=True,
            stdout=(folder / "launcher").open("w"), stderr=subprocess.STDOUT, preexec_fn=_die_with_parent,
        )  # fmt: skip
        shown = threading.Thread(target=_show, args=(folder / "said-0", launcher), daemon=True)
        shown.start()
        asked_to_stop = _passed_on(folder, launcher)
        code, gone = _watch(folder, launcher, asked.processes if asked.nodes == 1 else None)
        shown.join(2)
        _end(list(pids(folder).values()))
        _end_group(launcher.pid)
        number, code, message = outcome(folder, code, gone)
        if asked_to_stop and code not in (0, 130):
            code, message = 130, "stopped before the first step was over: nothing new was saved"
        if number is None and code:
            sys.stderr.write((folder / "launcher").read_text(encoding="utf-8", errors="replace"))
        elif number:
            sys.stderr.write((folder / f"said-{number}").read_text(encoding="utf-8", errors="replace"))
        if message:
            print(f"error: {message}", file=sys.stderr)
        return code


def _passed_on(folder: Path, launcher: subprocess.Popen) -> list[int]:
    """Pass signals that reach this process on to the training processes; return the list of those that came."""
    came: list[int] = []

    def pass_on(number: int, _frame) -> None:
        came.append(number)
        started = list(pids(folder).values())
        for pid in started:
            _send(pid, signal.SIGTERM)
        if not started:
            launcher.terminate()

    for sent in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sent, pass_on)
    return came


def _watch(folder: Path, launcher: subprocess.Popen, processes: int | None) -> tuple[int, list[int]]:
    """Wait for the launcher, and end what is left once one process has ended; return the launcher's exit code.

    ``processes``: how many there are, None where other machines have some of them. The numbers of those that have ended come
    with the code, in the order in which they were seen to be gone.
    """
    first_ended, all_ended, gone = None, None, []
    while True:
        try:
            return launcher.wait(timeout=0.2), gone
        except subprocess.TimeoutExpired:
            pass
        now, started = time.monotonic(), pids(folder)
        ended = [number for number, pid in started.items() if not _alive(pid)]
        gone += [number for number in ended if number not in gone]
        first_ended = (first_ended or now) if ended else None
        all_ended = (all_ended or now) if len(ended) == processes else None
        if (first_ended and now - first_ended > GRACE) or (all_ended and now - all_ended > PARTING):
            _end(list(started.values()))
            launcher.terminate()


def _end(started: list[int]) -> None:
    """Kill what is still running of the training processes."""
    for pid in started:
        if _alive(pid):
            _send(pid, signal.SIGKILL)


def _end_group(group: int) -> None:
    """Kill what a launcher has left of its own helpers."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        if os.path.isdir("/proc/self"):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _show(path: Path, launcher: subprocess.Popen) -> None:
    """Print what the first process writes into its file, as it comes."""
    done = 0
    while True:
        over = launcher.poll() is not None
        if path.exists():
            with path.open(encoding="utf-8", errors="replace") as file:
                file.seek(done)
                for line in iter(file.readline, ""):
                    if not line.endswith("\n") and not over:
                        break
                    done = file.tell()
                    sys.stderr.write(line)
                sys.stderr.flush()
        if over:
            return
        time.sleep(0.2)


def _die_with_parent() -> None:
    """Let the launcher get SIGTERM when this process is killed; where the system knows how (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    asked, rest = parser().parse_known_args(arguments)
    return launch(asked, rest)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
