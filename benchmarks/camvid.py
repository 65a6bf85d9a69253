"""``python -m benchmarks.camvid METHOD``: train on ``camvid/1_8`` in one framework, then compare the checkpoint in three runtimes.

All 101 validation images at full size unless ``--limit`` says otherwise. Needs CamVid under ``DATA_ROOT`` and the ResNet-18 trunk
under ``WEIGHTS_ROOT``.
"""

from __future__ import annotations

import argparse

from common.command_line import positive, run_command, user_path
from common.errors import CheckFailed
from common.paths import PROJECT
from common.runs.run_folder import RunFolder
from common.runtimes import FRAMEWORKS


def main(arguments: list[str] | None = None) -> None:
    """Train (unless the run folder already holds a checkpoint), compare, save."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.camvid",
        description="Train a method on camvid/1_8, then compare the checkpoint in three runtimes.",
    )
    parser.add_argument("method", help="e.g. u2pl")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings for the training")
    parser.add_argument("--framework", choices=FRAMEWORKS, default="torch", help="which one trains (default: torch)")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="compare the first N validation images (default: all)"
    )
    parser.add_argument("--out", type=user_path, default=PROJECT / "runs" / "camvid", help="folder for everything")
    parsed = parser.parse_intermixed_args(arguments)
    from benchmarks.machine import command_of, save
    from common.command_line import run_module
    from converters.parity import format_report, run_parity

    experiment, name = f"camvid/1_8/{parsed.method}", f"{parsed.method}-{parsed.framework}"
    folder = RunFolder(parsed.out / name)
    best = folder.best(FRAMEWORKS[parsed.framework].writes)
    if not best.exists():
        module = f"{parsed.framework}_impl.train"
        run_module(module, experiment, *parsed.overrides, "--run-dir", str(folder.path), show=True)
    outcome = run_parity(experiment, parsed.overrides, best, parsed.out / f"{name}-parity", parsed.limit)
    print(format_report(outcome))
    training = [entry for entry in folder.entries() if entry["kind"] == "train"]
    figures = {key: outcome[key] for key in ("gates", "scores", "pairs", "failures")}
    figures["training_iterations"] = training[-1]["iteration"]
    save(f"camvid-{name}", command_of("camvid", arguments), figures)
    if outcome["failures"]:
        raise CheckFailed("; ".join(outcome["failures"]))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
