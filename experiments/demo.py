"""``python -m experiments.demo`` (``make demo``): train, convert, evaluate three times, report - on the drawn data set.

Trains a supervised-only network and U2PL on the same few labels in PyTorch, converts the U2PL network to MindSpore and ONNX,
scores it in all three runtimes and writes ``report.html``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from common.errors import CheckFailed, run_command
from common.paths import PROJECT
from common.results import read_result
from common.runs import RunFolder

SPLIT = "shapes/12"


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m experiments.demo", description=__doc__.splitlines()[0])
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help="settings for both trainings, e.g. trainer.seed=2"
    )
    parser.add_argument(
        "--out", type=Path, default=PROJECT / "runs" / "demo", help="folder for everything (default: runs/demo)"
    )
    parsed = parser.parse_intermixed_args(arguments)
    from converters.parity import format_report, run_parity
    from converters.report import parity_report

    started = time.monotonic()
    suponly = train("suponly", parsed.overrides, parsed.out)
    u2pl = train("u2pl", parsed.overrides, parsed.out)
    out = parsed.out / "parity"
    experiment = f"{SPLIT}/u2pl"
    outcome = run_parity(experiment, parsed.overrides, u2pl.best(".pth"), out)
    baseline = read_result(suponly.result)
    row = (
        "sup-only (torch)",
        f"{baseline['miou_percent']:.3f}",
        baseline["seconds"] / baseline["images"],
        f"{baseline['runtime']['device']} ({baseline['runtime']['version']})",
    )
    report = parity_report(out, outcome, experiment, parsed.overrides, run_folder=u2pl.path, extra_rows=[row])
    print(f"\n{SPLIT}: mIoU % of a supervised-only network and of U2PL, same labels")
    print(f"{'sup-only':<10} {baseline['miou_percent']:>8.3f} {row[2]:>8.3f} {'':>11}  {row[3]}")
    print(format_report(outcome))
    print(f"\nreport: {report}\n{time.monotonic() - started:.0f} seconds")
    if outcome["failures"]:
        raise CheckFailed(f"parity failed: {'; '.join(outcome['failures'])}")


def train(method: str, overrides: list[str], out: Path) -> RunFolder:
    """Train ``method`` in PyTorch in a process of its own, output shown, and return its run folder."""
    from converters.parity import run_module

    folder = RunFolder(out / method)
    run_module(
        "torch_impl.train", f"{SPLIT}/{method}", *overrides, "--run-dir", str(folder.path), "--overwrite", show=True
    )
    return folder


if __name__ == "__main__":
    raise SystemExit(run_command(main))
