"""Runs what a campaign still lacks, as many trainings at once as asked for; what is interrupted continues next time."""

from __future__ import annotations

import os
import queue
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from common.command_line import pass_on_the_end
from common.paths import PROJECT
from common.runs.run_folder import RunFolder
from experiments.campaign.plan import Run
from experiments.campaign.rows import Rows, is_recipe_of
from experiments.campaign.seconds import Seconds

LOOK_AGAIN = 1.0
"""Seconds after which it is looked again whether trainings are to stop."""

STAGED = "usrn"
"""The method whose training is a chain of commands, ``experiments/usrn.py``."""


@dataclass
class Runner:
    """Trains runs in processes of their own.

    ``work`` holds the run folders, ``devices`` are handed out in turn (``cpu``, ``cuda:0``, ...), one run on each at a time;
    ``threads`` is each run's number of threads; ``seconds`` is the time after which running trainings are asked to save
    and stop and no other begins (None: no limit).
    """

    rows: Rows
    work: Path
    devices: Sequence[str]
    threads: int = 1
    seconds: float | None = None
    failed: list[str] = field(default_factory=list)

    def run(self, runs: Sequence[Run]) -> None:
        """Train all ``runs`` and keep their rows; a run that fails is named in ``failed`` and the others go on."""
        self._end = None if self.seconds is None else time.monotonic() + self.seconds
        self._free: queue.Queue[str] = queue.Queue()
        self._lock = threading.Lock()
        self.rows.make_folder()  # a place that cannot be written to is said before hours of training, not after
        for device in self.devices:
            self._free.put(device)
        with ThreadPoolExecutor(len(self.devices)) as pool:
            try:
                list(pool.map(self._one, runs))
            except KeyboardInterrupt:
                self._end = 0.0  # nothing else begins, and what runs is asked to save
                raise

    def _one(self, run: Run) -> None:
        if self._over():
            return
        device = self._free.get()
        try:
            self._train(run, device)
        finally:
            self._free.put(device)

    def _over(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def _train(self, run: Run, device: str) -> None:
        place = self.work / run.name
        folder = RunFolder(place / STAGED if run.config.method.name == STAGED else place)
        arguments, output = command(run, folder, device, self.threads), place.with_name(f"{run.name}.txt")
        taken = Seconds(place.with_name(f"{run.name}.seconds.json"), run)
        fresh = not place.exists() or arguments[-1] == "--overwrite"
        place.mkdir(parents=True, exist_ok=True)
        taken.start(fresh)
        say(f"{run.name}: training on {device}")
        started, before = time.monotonic(), _children_seconds()
        with open(output, "a", encoding="utf-8") as file:
            code = self._wait(subprocess.Popen(
                arguments, cwd=PROJECT, stdout=file, stderr=file, stdin=subprocess.DEVNULL,
                env=os.environ | threads_of(self.threads),
            ))  # fmt: skip
        with self._lock:
            taken.end(time.monotonic() - started, _children_seconds() - before if len(self.devices) == 1 else None)
            if code == 0:
                row = self.rows.add(run, folder, self.threads, taken)
                say(f"{run.name}: mIoU {row['miou']:.2f}, at the end {row['last_miou']:.2f}")
            elif self._over():
                say(f"{run.name}: saved, continues next time")
            else:
                self.failed.append(run.name)
                say(f"{run.name}: failed with exit code {code}: {last_line(output)}")

    def _wait(self, process: subprocess.Popen) -> int:
        """Return the exit code of a training, which is asked to save and stop if it still runs when the time is over."""
        while not self._over():
            try:
                return process.wait(timeout=LOOK_AGAIN)
            except subprocess.TimeoutExpired:
                continue
        return pass_on_the_end(process)


def command(run: Run, folder: RunFolder, device: str, threads: int) -> list[str]:
    """Return the command that starts ``run``, or continues it where its folder holds what an interrupted one has left."""
    settings = [*run.settings, f"trainer.device={device}", f"trainer.threads={threads}"]
    started = any(folder.path.glob("last.*")) and is_recipe_of(folder.config, run)
    python = [sys.executable, "-m"]
    if run.config.method.name == STAGED:
        place = str(folder.path.parent)
        return [*python, "experiments.usrn", run.framework, run.split, *settings, "--out", place, "--resume"]
    mode = "--resume" if started else "--overwrite"
    return [*python, f"{run.framework}_impl.train", run.experiment, *settings, "--run-dir", str(folder.path), mode]


def threads_of(threads: int) -> dict[str, str]:
    """Return the environment that keeps the numeric libraries of a process to ``threads`` threads."""
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))


def last_line(path: Path) -> str:
    """Return the last line of a run's output."""
    return (path.read_text("utf-8", errors="replace").strip().splitlines() or [""])[-1]


def say(text: str) -> None:
    """Print one line at once."""
    print(text, flush=True)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
