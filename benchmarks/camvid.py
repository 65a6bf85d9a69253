"""``python -m benchmarks.camvid``: train U2PL on ``camvid/1_8`` in PyTorch, then compare the checkpoint in three runtimes.

All 101 validation images at full size. Needs CamVid under ``DATA_ROOT`` and the ResNet-18 trunk under ``WEIGHTS_ROOT``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common.errors import CheckFailed, run_command
from common.paths import PROJECT
from common.runs import RunFolder

EXPERIMENT = "camvid/1_8/u2pl"


def main(arguments: list[str] | None = None) -> None:
    """Train (unless the run folder already holds a checkpoint), compare, save."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.camvid",
        description="Train U2PL on camvid/1_8, then compare the checkpoint in three runtimes.",
    )
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings for the training")
    parser.add_argument("--out", type=Path, default=PROJECT / "runs" / "camvid", help="folder for everything")
    parsed = parser.parse_intermixed_args(arguments)
    from benchmarks.machine import save
    from converters.parity import format_report, run_module, run_parity

    folder = RunFolder(parsed.out / "u2pl")
    if not folder.best(".pth").exists():
        run_module("torch_impl.train", EXPERIMENT, *parsed.overrides, "--run-dir", str(folder.path), show=True)
    outcome = run_parity(EXPERIMENT, parsed.overrides, folder.best(".pth"), parsed.out / "parity")
    print(format_report(outcome))
    training = [entry for entry in folder.entries() if entry["kind"] == "train"]
    figures = {key: outcome[key] for key in ("gates", "scores", "pairs", "failures")}
    figures["training_iterations"] = training[-1]["iteration"]
    save("camvid", " ".join(["python -m benchmarks.camvid", *parsed.overrides]), figures)
    if outcome["failures"]:
        raise CheckFailed("; ".join(outcome["failures"]))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
