"""Training runs that are killed at a chosen moment: ``python -m tests.commands.killed FRAMEWORK``, a request a line on stdin.

A request is JSON: the command's ``arguments``, and ``moment``, when the process kills itself by SIGKILL: null, or before which
event, counted from 1, of all or ("saving") of those between a file's beginning and its end. Events are steps and everything that
changes the run's files: opening, every single write, flushing, renaming, removing. The answer is JSON: exit code (-9: killed) and the
numbers of events. PyTorch runs are forks of one process that has everything loaded; MindSpore, whose threads do not survive a
fork, begins anew each time.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

CHANGES = ("open", "os.mkdir", "os.remove", "os.rename", "os.truncate")
"""Audit events of Python that come before a change of files."""


class Moments:
    """Counts events and ends the process, without a word, at the one that was asked for."""

    def __init__(self, folder: str, moment: int | None, saving_only: bool) -> None:
        self.folder, self.moment, self.saving_only = os.path.realpath(folder), moment, saving_only
        self.events = self.saving = 0
        self.unfinished = False

    def count(self) -> None:
        """One event."""
        self.events += 1
        self.saving += self.unfinished
        if self.moment == (self.saving if self.saving_only else self.events) and (
            self.unfinished or not self.saving_only
        ):
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(self, event: str, arguments: tuple) -> None:
        """Look at an audit event: only what writes in the run's folder counts."""
        if event not in CHANGES or not isinstance(arguments[0], (str, Path)):
            return
        reads = event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        path = os.path.abspath(os.fspath(arguments[0]))
        if reads or not path.startswith(self.folder):
            return
        self.unfinished = self.unfinished or os.path.basename(path).startswith(".")
        self.count()
        self.unfinished = self.unfinished and event != "os.rename"

    def opening(self, *arguments, **options):
        """``open`` whose every write is an event."""
        return _Counted(builtins.open(*arguments, **options), self)


class _Counted:
    """An open file."""

    def __init__(self, file, moments: Moments) -> None:
        self._file, self._moments = file, moments

    def write(self, data) -> int:
        self._moments.count()
        return self._file.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self._file.__exit__(*error)

    def __getattr__(self, name: str):
        return getattr(self._file, name)


def run(framework: str, request: dict) -> dict:
    """Train as the request says, in this process."""
    from common import files
    from common.checkpoints import ckpt_file
    from common.command_line import run_command
    from common.runs import run_folder
    from common.training.trainer import Trainer

    arguments = request["arguments"]
    moments = Moments(arguments[arguments.index("--run-dir") + 1], request["moment"], request["saving"])
    step, sync = Trainer._step, os.fsync

    def counted_step(self, batch) -> None:
        step(self, batch)
        moments.count()

    def counted_sync(handle: int) -> None:
        moments.count()
        sync(handle)

    Trainer._step, files.os.fsync = counted_step, counted_sync
    for module in (ckpt_file, run_folder, importlib.import_module(f"{framework}_impl.checkpoint")):
        module.open = moments.opening
    sys.addaudithook(moments.hook)
    code = run_command(importlib.import_module(f"{framework}_impl.train").main, arguments)
    return {"code": code, "events": moments.events, "saving": moments.saving}


def forked(framework: str, request: dict) -> dict:
    """Train in a fork of this process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.write(writer, json.dumps(run(framework, request)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    status = os.waitpid(child, 0)[1]
    return json.loads(said) if said else {"code": -os.WTERMSIG(status), "events": 0, "saving": 0}


def anew(framework: str, request: dict) -> dict:
    """Train in a process of its own."""
    command = [sys.executable, "-m", "tests.commands.killed", framework, "once"]
    done = subprocess.run(command, input=json.dumps(request), stdout=subprocess.PIPE, text=True)
    answer = done.stdout.strip().splitlines()
    return json.loads(answer[-1]) if answer else {"code": done.returncode, "events": 0, "saving": 0}


def main() -> None:
    """Answer requests until there are no more."""
    framework, *once = sys.argv[1:]
    if once:
        print(json.dumps(run(framework, json.loads(sys.stdin.read()))), flush=True)
        return
    if framework == "torch":
        import torch

        import torch_impl.methods
        import torch_impl.session
        import torch_impl.train  # noqa: F401

        torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps((forked if framework == "torch" else anew)(framework, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
