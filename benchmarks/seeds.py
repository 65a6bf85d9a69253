"""``python -m benchmarks.seeds``: the supervised-only network and methods on ``shapes/12``, in both frameworks, several seeds.

Shows whether a method beats the supervised-only network on the same labels, and whether training in MindSpore ends where
training in PyTorch ends, within the spread of the seeds. Runs already finished in ``--out`` are used again.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from pathlib import Path

from common.command_line import run_command
from common.evaluation.results import read_result
from common.experiment import compose, load
from common.paths import PROJECT
from common.runs.run_folder import RunFolder
from common.runtimes import FRAMEWORKS


def main(arguments: list[str] | None = None) -> None:
    """Train every run, print and save the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.seeds",
        description="Train the supervised-only network and methods with several seeds, the methods in both frameworks.",
    )
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings for every run")
    parser.add_argument("--methods", nargs="+", default=["u2pl"], help="beside suponly (default: u2pl)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument(
        "--mindspore-runs", type=int, default=3, help="how many of the seeds MindSpore trains (default: 3)"
    )
    parser.add_argument("--experiment", default="shapes/12", help="DATASET/SPLIT (default: shapes/12)")
    parser.add_argument("--out", type=Path, default=PROJECT / "runs" / "seeds", help="folder of the runs")
    parsed = parser.parse_intermixed_args(arguments)
    from benchmarks.machine import save
    from common.command_line import run_module

    scores: dict[str, list[float]] = {}
    runs = [("torch", "suponly"), *itertools.product(FRAMEWORKS, parsed.methods)]
    for framework, method in runs:
        for seed in parsed.seeds if framework == "torch" else parsed.seeds[: parsed.mindspore_runs]:
            folder = RunFolder(parsed.out / f"{framework}_{method}_{seed}")
            settings = [f"{parsed.experiment}/{method}", *parsed.overrides, f"trainer.seed={seed}"]
            if not finished(folder, settings):
                module = f"{framework}_impl.train"
                run_module(module, *settings, "--run-dir", str(folder.path), "--overwrite")
            best = read_result(folder.result)["miou_percent"]
            scores.setdefault(f"{method} ({framework})", []).append(best)
            print(f"{method} ({framework}) seed {seed}: best mIoU {best:.2f}", flush=True)
    figures = {
        name: {
            "miou_percent": values,
            "mean": round(statistics.mean(values), 3),
            "spread": round(max(values) - min(values), 3),
        }
        for name, values in scores.items()
    }
    for name, row in figures.items():
        print(f"{name:<20} mean {row['mean']:.2f}  spread {row['spread']:.2f}")
    command = " ".join(["python -m benchmarks.seeds", *(sys.argv[1:] if arguments is None else arguments)])
    save(f"seeds-{parsed.experiment.replace('/', '_')}", command, {"seeds": parsed.seeds, "best": figures})


def finished(folder: RunFolder, settings: list[str]) -> bool:
    """Whether ``folder`` holds a run of exactly these settings to its last iteration."""
    config = compose(settings[0], settings[1:])
    if not folder.config.exists() or load(folder.config) != config:
        return False
    steps = config.trainer.epochs * (config.trainer.iterations_per_epoch or 0)
    return any(entry["kind"] == "evaluation" and entry["iteration"] == steps for entry in folder.entries())


if __name__ == "__main__":
    raise SystemExit(run_command(main))
