"""How everything here is measured: forms take turns in one run, each in a process of its own.

In every turn each form runs once, and the first form once more in another process, as a control: what that differs by is noise. So
other load on the machine hits all alike. A figure is the median of the turns' ratios to the mean of the first form's two processes, with
the smallest and largest; processor time counts, wall time stands beside it. Memory is the most that a form needed beyond what its
process held before. Every file that is written states command, commit, date, machine and load.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import command_of, save
from benchmarks.worker import serve
from common.command_line import positive
from common.errors import CheckFailed
from common.paths import PROJECT

CONTROL = "control"
KINDS = ("cpu", "wall")
WORKER = [sys.executable, str(PROJECT / "benchmarks" / "worker.py")]
"""The beginning of the command of a form that runs beside the code of another commit (:mod:`benchmarks.worker`)."""
Builder = Callable[[argparse.Namespace], Callable[[], Any]]
"""Makes the inputs of a form and returns the function that is measured."""


@dataclass(frozen=True)
class Form:
    """The command that starts a form's process (:func:`benchmarks.worker.serve`), and the checkout whose code it imports."""

    command: Sequence[str]
    tree: Path = PROJECT


def options(module: str, description: str, turns: int = 5) -> argparse.ArgumentParser:
    """Return the parser of ``python -m benchmarks.MODULE`` with what every measurement takes."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=description)
    parser.add_argument("--turns", "--runs", type=positive, default=turns, help=f"turns that count (default: {turns})")
    parser.add_argument("--threads", type=positive, default=1, help="threads of each form (default: 1)")
    parser.add_argument("--form", nargs="+", help=argparse.SUPPRESS)
    return parser


def run_cases(
    module: str,
    cases: Mapping[str, Mapping[str, Builder]],
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
) -> dict[str, Any] | None:
    """Measure the forms of every case, print and save; return the figures, or none in the process of one form.

    Each builder of ``cases`` runs in a process of its own: this program once more, with ``--form CASE FORM``.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parsed = parser.parse_intermixed_args(words)
    if parsed.form:
        case, form = parsed.form
        serve(cases[case][form](parsed))
        return None
    figures = {}
    for case, forms in cases.items():
        command = [sys.executable, "-m", f"benchmarks.{module}", *words, "--form", case]
        figures[case] = measure({form: Form([*command, form]) for form in forms}, parsed.turns, parsed.threads)
        print(f"{case}: {summary(figures[case])}", flush=True)
    save(module, command_of(module, arguments), figures)
    return figures


def measure(forms: Mapping[str, Form], turns: int, threads: int = 1, warm: int = 1) -> dict[str, Any]:
    """Let the forms run in turn, ``warm`` turns before those that count; return times, memory, ratios to the first form, load."""
    first = next(iter(forms))
    started = {**forms, CONTROL: forms[first]}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in started}
    load = [os.getloadavg()[0]]
    with ExitStack() as stack:
        workers = {name: stack.enter_context(_worker(form, threads)) for name, form in started.items()}
        for turn in range(warm + turns):
            # Every other turn goes backwards: what runs first after a pause is not always the same.
            for name in sorted(workers, key=list(workers).index, reverse=turn % 2 == 1):
                taken[name].append(_once(name, workers[name]))
            if len({runs[-1].get("digest") for runs in taken.values()}) > 1:
                raise CheckFailed(f"the results of the forms {', '.join(forms)} differ")
    load.append(os.getloadavg()[0])
    counted = {name: runs[warm:] for name, runs in taken.items()}
    peaks = {name: max(run["mib"] for run in runs) for name, runs in taken.items()}
    both = {  # what the other forms are compared with; the control is compared with the first form
        kind: [(run[kind] + other[kind]) / 2 for run, other in zip(counted[first], counted[CONTROL])] for kind in KINDS
    }
    alone = {kind: [run[kind] for run in counted[first]] for kind in KINDS}
    return {
        "turns": turns,
        "threads": threads,
        "seconds": {
            kind: {name: _spread([run[kind] for run in runs]) for name, runs in counted.items()} for kind in KINDS
        },
        "first_cpu_seconds": {name: round(runs[0]["cpu"], 2) for name, runs in taken.items()},
        "mib": {name: round(peak, 1) for name, peak in peaks.items()},
        "over_first": {
            name: {
                **{
                    kind: _spread(
                        [run[kind] / base for run, base in zip(runs, (alone if name == CONTROL else both)[kind])]
                    )
                    for kind in KINDS
                },
                "memory": round(peaks[name] / max(peaks[first], 0.1), 3),
            }
            for name, runs in counted.items()
            if name != first
        },
        "load": [round(value, 1) for value in load],
    }


def summary(measured: Mapping[str, Any]) -> str:
    """Return one line: processor time and memory of every form over those of the first, with the spread."""
    first = next(iter(measured["seconds"]["cpu"]))
    parts = [f"{first} {measured['seconds']['cpu'][first]['median']:.3f} s, {measured['mib'][first]:.0f} MiB"]
    for name, ratios in measured["over_first"].items():
        cpu = ratios["cpu"]
        parts.append(
            f"{name} / {first}: {cpu['median']:.2f} ({cpu['low']:.2f}-{cpu['high']:.2f}), wall "
            f"{ratios['wall']['median']:.2f}, memory {ratios['memory']:.2f}"
        )
    return "; ".join(parts)


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """Yield a checkout of ``commit`` that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "other"
        git = ["git", "-C", str(PROJECT), "worktree"]
        added = subprocess.run([*git, "add", "--detach", str(tree), commit], capture_output=True, text=True)
        if added.returncode:
            raise CheckFailed(f"no checkout of {commit}: {added.stderr.strip().splitlines()[-1]}")
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True, capture_output=True)


@contextmanager
def _worker(form: Form, threads: int) -> Iterator[subprocess.Popen]:
    """Start the process of a form; end it afterwards."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    worker = subprocess.Popen(
        form.command, cwd=form.tree, env=os.environ | limits | {"PYTHONPATH": str(form.tree)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield worker
    finally:
        worker.stdin.close()
        worker.wait()
        worker.stdout.close()


def _once(name: str, worker: subprocess.Popen) -> dict[str, float]:
    with suppress(BrokenPipeError):  # then what it said stands above
        print("run", file=worker.stdin, flush=True)
    for line in worker.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise CheckFailed(f"the process of form {name} ended early; its own message is above")


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4), "low": round(min(values), 4), "high": round(max(values), 4)
    }  # fmt: skip
