"""``python -m benchmarks.steps --against COMMIT``: CPU seconds of a training step of every method, beside another commit's.

The training command runs in this tree and in a worktree of the other commit, in turns, each time with few and with more steps;
the difference of the two processes' CPU times over the steps between is the time of one step, loading included. This tree also
runs against itself: what that control shows is noise.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import save
from common.command_line import positive, run_command
from common.errors import CheckFailed
from common.paths import PROJECT

METHODS = (
    "suponly",
    "u2pl",
    "u2pl_ael",
    "cpcl",
    "cps",
    "cps_cutmix",
    "pcr",
    "usrn_baseline",
    "uccl",
    "unimatch",
    "fixmatch",
)
WARM_STEPS = 2
SETTINGS = (
    "trainer.epochs=1", "trainer.evaluate_every=100", "trainer.pictures=0", "trainer.threads=1", "trainer.device=cpu",
    "evaluation.protocol=resize", "evaluation.size=32", "trainer.log_every=1000",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_intermixed_args(arguments)
    with worktree(options.against) as other:
        forms = {"this": PROJECT, "other": other, "control": PROJECT}
        figures = {}
        for method in options.methods:
            seconds: dict[str, list[float]] = {name: [] for name in forms}
            for _ in range(options.turns):
                for name, tree in forms.items():
                    seconds[name].append(step_seconds(tree, options, method))
            figures[method] = compared(seconds)
            print(f"{method:14} {figures[method]['text']}", flush=True)
    command = f"python -m benchmarks.steps {' '.join(sys.argv[1:] if arguments is None else arguments)}"
    save(f"steps-{options.framework}", command, {"against": options.against, "methods": figures})


def step_seconds(tree: Path, options: argparse.Namespace, method: str) -> float:
    """Return CPU seconds of one step of ``method`` in the checkout ``tree``."""
    few, more = (_run(tree, options, method, steps) for steps in (WARM_STEPS, WARM_STEPS + options.steps))
    return (more - few) / options.steps


def _run(tree: Path, options: argparse.Namespace, method: str, steps: int) -> float:
    """Train ``steps`` steps in a process of its own and return the CPU seconds that it took."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with tempfile.TemporaryDirectory() as folder:
        settings = [*SETTINGS, f"trainer.iterations_per_epoch={steps}", *options.overrides]
        command = [sys.executable, "-m", f"{options.framework}_impl.train", f"{options.split}/{method}", *settings]
        before = _children_seconds()
        done = subprocess.run(
            [*command, "--run-dir", folder, "--overwrite"], cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)} | threads,
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise CheckFailed(f"{method} in {tree}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
        return _children_seconds() - before


def compared(seconds: dict[str, list[float]]) -> dict[str, object]:
    """Return medians, the ratios turn by turn and one line of text."""
    ratios = {name: [round(b / a, 3) for a, b in zip(seconds["this"], seconds[name])] for name in ("other", "control")}
    medians = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    shown = "  ".join(
        f"{name} / this {statistics.median(values):.3f} ({min(values):.3f} - {max(values):.3f})"
        for name, values in ratios.items()
    )
    return {"seconds": medians, "ratios": ratios, "text": f"{medians['this']:.3f} s; {shown}"}


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """Yield a checkout of ``commit`` that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "other"
        subprocess.run(
            ["git", "-C", str(PROJECT), "worktree", "add", "--detach", str(tree), commit],
            check=True,
            capture_output=True,
        )
        try:
            yield tree
        finally:
            subprocess.run(
                ["git", "-C", str(PROJECT), "worktree", "remove", "--force", str(tree)], check=True, capture_output=True
            )


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__.splitlines()[0])
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help="settings of every run, e.g. network.encoder=resnet50"
    )
    parser.add_argument("--against", default="HEAD", metavar="COMMIT", help="the other side (default: HEAD)")
    parser.add_argument("--framework", choices=("torch", "mindspore"), default="torch")
    parser.add_argument("--split", default="shapes/12", help="DATASET/SPLIT (default: shapes/12)")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="default: all that train in one command")
    parser.add_argument("--steps", type=positive, default=100, help="steps that are timed in each run (default: 100)")
    parser.add_argument("--turns", type=positive, default=3, help="default: 3")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
