"""``python -m experiments.demo`` (``make demo``): train, convert, evaluate three times, report - on the drawn data set.

Trains a supervised-only network and U2PL on the same few labels in PyTorch, converts the U2PL network to MindSpore and ONNX,
scores it in all three runtimes and writes ``report.html``.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

from common.command_line import run_command
from common.errors import CheckFailed
from common.evaluation.results import read_result
from common.paths import PROJECT
from common.runs.run_folder import RunFolder
from common.runtimes import FRAMEWORKS

SPLIT = "shapes/12"


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.demo",
        description="Train, convert, evaluate three times, report - on the drawn data set.",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help="settings for both trainings, e.g. trainer.seed=2"
    )
    parser.add_argument(
        "--out", type=Path, default=PROJECT / "runs" / "demo", help="folder for everything (default: runs/demo)"
    )
    parser.add_argument("--benchmark", action="store_true", help="also write the figures to benchmarks/")
    parsed = parser.parse_intermixed_args(arguments)
    from benchmarks.machine import save
    from converters.parity import format_report, run_parity

    started = time.monotonic()
    suponly = train("suponly", parsed.overrides, parsed.out)
    u2pl = train("u2pl", parsed.overrides, parsed.out)
    out = parsed.out / "parity"
    baselines = {"sup-only (torch)": read_result(suponly.result)}
    outcome = run_parity(
        f"{SPLIT}/u2pl", parsed.overrides, u2pl.best(FRAMEWORKS["torch"].writes), out, baselines=baselines
    )
    print(f"\n{SPLIT}: a supervised-only network, and U2PL from the same labels in three runtimes")
    print(format_report(outcome))
    seconds = time.monotonic() - started
    print(f"\nreport: {out / 'report.html'}\n{seconds:.0f} seconds, largest process {largest_process():.1f} GiB")
    if parsed.benchmark:
        figures = {key: outcome[key] for key in ("baselines", "scores", "pairs", "failures")}
        figures |= {"seconds": round(seconds), "largest_process_gib": round(largest_process(), 2)}
        save("demo", " ".join(["python -m experiments.demo --benchmark", *parsed.overrides]), figures)
    if outcome["failures"]:
        raise CheckFailed(f"parity failed: {'; '.join(outcome['failures'])}")


def largest_process() -> float:
    """Return the peak memory, in GiB, of the largest of this process and those it ran (Linux counts in KiB)."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 2**20


def train(method: str, overrides: list[str], out: Path) -> RunFolder:
    """Train ``method`` in PyTorch in a process of its own, output shown, and return its run folder."""
    from common.command_line import run_module

    folder = RunFolder(out / method)
    run_module(
        "torch_impl.train", f"{SPLIT}/{method}", *overrides, "--run-dir", str(folder.path), "--overwrite", show=True
    )
    return folder


if __name__ == "__main__":
    raise SystemExit(run_command(main))
