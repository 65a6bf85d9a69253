"""``python -m experiments.demo`` (``make demo``): train, convert, evaluate three times, report - on the drawn data set.

Trains a supervised-only network and U2PL on the same few labels in PyTorch, each with several seeds, says what U2PL gains
on the average, converts one U2PL network to MindSpore and ONNX, scores it in all three runtimes and writes ``report.html``.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.command_line import number, run_command, user_path
from common.errors import CheckFailed
from common.evaluation.results import read_result
from common.machine import peak_memory
from common.paths import PROJECT
from common.runs.run_folder import RunFolder
from common.runtimes import FRAMEWORKS
from experiments.campaign.page import write_page
from experiments.campaign.plan import Campaign, Group, Run, runs_of
from experiments.campaign.rows import Rows
from experiments.campaign.runner import Runner
from experiments.campaign.statistics import spread

SPLIT = "shapes/12"
METHODS = ("suponly", "u2pl")
SEEDS = (1, 2, 3)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parsed = _parser().parse_intermixed_args(arguments)
    from converters.parity import format_report, run_parity

    started = time.monotonic()
    scores = train(parsed.seeds, parsed.overrides, parsed.out)
    claim = gain(scores)
    print(claim)
    first = {method: run_folder(parsed.out, method, parsed.seeds[0]) for method in METHODS}
    out = parsed.out / "parity"
    outcome = run_parity(
        f"{SPLIT}/u2pl", parsed.overrides, first["u2pl"].best(FRAMEWORKS["torch"].writes), out,
        baselines={"sup-only (torch)": read_result(first["suponly"].result)},
    )  # fmt: skip
    print(
        f"\n{SPLIT}: a supervised-only network, and U2PL from the same labels in three runtimes, seed {parsed.seeds[0]}"
    )
    print(format_report(outcome))
    seconds = time.monotonic() - started
    print(f"\nreport: {out / 'report.html'}; all runs: {parsed.out / 'demo.md'}")
    print(f"{seconds:.0f} seconds, largest process {largest_process():.1f} GiB")
    if parsed.benchmark:
        from benchmarks.machine import save

        figures = {"runs": scores} | {key: outcome[key] for key in ("baselines", "scores", "pairs", "failures")}
        figures |= {"seconds": round(seconds), "largest_process_gib": round(largest_process(), 2)}
        save("demo", " ".join(["python -m experiments.demo --benchmark", *parsed.overrides]), figures)
    if outcome["failures"]:
        raise CheckFailed(f"parity failed: {'; '.join(outcome['failures'])}")
    if not parsed.overrides and not gains(scores):
        raise CheckFailed(f"the demo's claim does not come out here: {claim}")


def train(seeds: Sequence[int], overrides: Sequence[str], out: Path) -> dict[str, list[float]]:
    """Train every method with every seed, as many at once as there are processors; return mIoU in percent by method."""
    group = Group(experiments=tuple(f"{SPLIT}/{method}" for method in METHODS), torch=tuple(seeds))
    campaign = Campaign(title="The demo's runs", overrides=tuple(overrides), groups=(group,))
    runs, rows = runs_of(campaign), Rows(out / "demo")
    runner = Runner(rows, out / "runs", ["cpu"] * len(os.sched_getaffinity(0)))
    runner.run([run for run in runs if run.name not in rows.current(runs)])
    if runner.failed:
        raise CheckFailed(f"{', '.join(runner.failed)} failed; its output is in {out / 'runs'}")
    write_page(out / "demo.yaml", campaign, runs, rows, "python -m experiments.demo")
    current = rows.current(runs)
    return {method: [current[run.name]["miou"] for run in runs if run.method == method] for method in METHODS}


def run_folder(out: Path, method: str, seed: int) -> RunFolder:
    """Return the run folder of ``method`` with ``seed`` below the demo's folder."""
    return RunFolder(out / "runs" / Run.name_of("torch", f"{SPLIT}/{method}", "", seed))


def gain(scores: Mapping[str, Sequence[float]]) -> str:
    """Say in one line what U2PL gains over the supervised-only network, with the spread over the seeds."""
    means = {method: statistics.mean(values) for method, values in scores.items()}
    shown = ", ".join(
        f"{method} {means[method]:.2f} (spread {spread(values):.2f}: {', '.join(f'{value:.2f}' for value in values)})"
        for method, values in scores.items()
    )
    return f"mIoU over {len(scores['u2pl'])} seeds: {shown}; gain {means['u2pl'] - means['suponly']:+.2f} points"


def gains(scores: Mapping[str, Sequence[float]]) -> bool:
    """Whether U2PL is better on the average and no run of it is more than a point under the supervised-only mean."""
    baseline = statistics.mean(scores["suponly"])
    return statistics.mean(scores["u2pl"]) > baseline and min(scores["u2pl"]) > baseline - 1


def largest_process() -> float:
    """Return the peak memory, in GiB, of the largest of this process and those it ran (Linux counts the latter in KiB)."""
    return max(peak_memory() / 2**10, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.demo",
        description="Train, convert, evaluate three times, report - on the drawn data set.",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help="settings for all trainings, e.g. trainer.epochs=2"
    )
    parser.add_argument("--seeds", type=number(0, kind=int), nargs="+", default=list(SEEDS), help="default: 1 2 3")
    parser.add_argument(
        "--out", type=user_path, default=PROJECT / "runs" / "demo", help="folder for everything (default: runs/demo)"
    )
    parser.add_argument("--benchmark", action="store_true", help="also write the figures to benchmarks/")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
