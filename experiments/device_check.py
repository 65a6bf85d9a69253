"""``python -m experiments.device_check torch|mindspore|onnx``: does everything that needs a GPU or an Ascend run on this machine?

Steps of every method in every precision and a training in two processes (torch, mindspore), or every execution provider (onnx), on
the drawn data set, each by a command that a user could type. What they said goes into one report, ``report.md``, to read or
to attach to a question; on a CPU the same is rehearsed. Needs no data. Exit code 1 if a check fails; what the machine cannot do at
all is refused, with the reason, and no failure.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.command_line import project_environment, run_command, run_module, user_path
from common.errors import CheckFailed
from common.files import write_json_atomic, write_text_atomic
from common.machine import describe
from common.paths import PROJECT
from common.runs.run_folder import RunFolder
from common.runtimes import FRAMEWORKS

METHODS = (
    "suponly", "mean_teacher", "u2pl", "u2pl_ael", "cpcl", "cps", "cps_cutmix", "pcr", "uccl", "unimatch", "fixmatch", "usrn",
)  # fmt: skip
"""``usrn`` trains its baseline, too."""
PRECISIONS = ("float32", "bf16", "fp16")
PROVIDERS = ("cuda", "cuda:tf32", "tensorrt", "tensorrt:fp16", "openvino", "openvino:bf16")
STEPS = 5
"""Epochs of one step each: so many that every method has left its supervised first epochs."""
SHORT = (
    f"trainer.epochs={STEPS}", "trainer.iterations_per_epoch=1", "trainer.log_every=1", f"trainer.evaluate_every={STEPS}",
    "trainer.deterministic_dropout=true", "trainer.pictures=0", "loader.workers=0", "dataset.images=[200, 8]",
)  # fmt: skip
LOSS_GATE = 1e-3
"""Largest relative difference of the first float32 loss from the CPU's."""


@dataclass(frozen=True)
class Check:
    """One thing to try: ``command`` is what follows ``python``; ``run`` the run folder whose losses are compared, if any."""

    name: str
    command: tuple[str, ...]
    run: Path | None = None


@dataclass
class Outcome:
    """How a check ended: ``ok``, ``failed`` or ``refused``; ``note`` says what was measured, or why it did not end well."""

    name: str
    result: str
    seconds: float
    note: str
    command: str


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    out = options.out or PROJECT / "runs" / "device_check" / options.framework
    out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for outcome in check_onnx(options, out) if options.framework == "onnx" else check_training(options, out):
        print(f"{outcome.result:8}{outcome.name}: {outcome.note} ({outcome.seconds:.0f} s)", flush=True)
        outcomes.append(outcome)
        report(out, options, outcomes)  # after each, so that a machine that goes down leaves what was found
    counts = {result: sum(outcome.result == result for outcome in outcomes) for result in ("ok", "refused", "failed")}
    print(f"{', '.join(f'{count} {result}' for result, count in counts.items())}; report: {out / 'report.md'}")
    if counts["failed"]:
        raise CheckFailed(f"{counts['failed']} of {len(outcomes)} checks failed; see {out / 'report.md'}")


def check_training(options: argparse.Namespace, out: Path) -> Iterator[Outcome]:
    """Train every method some steps in every precision, compare float32 with the CPU, then try two processes."""
    for method in options.methods:
        for precision in options.precisions:
            settings = [*SHORT, f"trainer.precision={precision}"]
            outcome = attempt(training(options.framework, method, settings, options.device, out / method / precision))
            if outcome.result == "ok" and precision == "float32" and options.device != "cpu":
                on_cpu = training(options.framework, method, settings, "cpu", out / method / "cpu")
                attempt(on_cpu)
                compare(outcome, on_cpu.run, out / method / precision)
            yield outcome
    method = "u2pl" if "u2pl" in options.methods else options.methods[0]
    run = out / "processes"
    command = (
        "-m", "experiments.launch", options.framework, f"shapes/12/{method}", *SHORT, f"trainer.device={options.device}",
        "--run-dir", str(run), "--overwrite", "--processes", "2",
    )  # fmt: skip
    yield attempt(Check(f"{method}, two processes", command, run))


def training(framework: str, method: str, settings: Sequence[str], device: str, run: Path) -> Check:
    """Return the check that trains ``method``; that of ``usrn`` is a chain of commands."""
    settings = [*settings, f"trainer.device={device}"]
    name = f"{method}, {settings[len(SHORT)].partition('=')[2]}"
    if method == "usrn":
        command = ["-m", "experiments.usrn", framework, "shapes/12", *settings, "--out", str(run), "--overwrite"]
        return Check(name, tuple(command), run / "usrn")
    command = ["-m", f"{framework}_impl.train", f"shapes/12/{method}", *settings, "--run-dir", str(run), "--overwrite"]
    return Check(name, tuple(command), run)


def check_onnx(options: argparse.Namespace, out: Path) -> Iterator[Outcome]:
    """Export a small network and run it on every provider, each against the CPU."""
    model = out / "model.onnx"
    run_module("torch_impl.train", "shapes/12/suponly", *SHORT, "--run-dir", str(out / "run"), "--overwrite")
    best = RunFolder(out / "run").best(FRAMEWORKS["torch"].writes)
    model.unlink(missing_ok=True)
    run_module("converters.export_onnx", str(best), str(model))
    for provider in options.providers:
        file = out / f"{provider.replace(':', '-')}.json"
        command = (
            "-m", "onnx_impl.bench", str(model), "--provider", "cpu", provider, "--size", "64", "64", "--runs", "5",
            "--data", "shapes/12/suponly", "--limit", "8", "--json", str(file),
        )  # fmt: skip
        outcome = attempt(Check(provider, command))
        if outcome.result == "ok":
            row = json.loads(file.read_text(encoding="utf-8"))["rows"][-1]
            outcome.note = f"{row['device']}, {row['p50_ms']} ms, changed pixels {100 * row['score']['flips']:.3f} %"
        yield outcome


def attempt(check: Check) -> Outcome:
    """Run a check in a process of its own and say how it ended."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, *check.command], env=project_environment(), capture_output=True, text=True, errors="replace",
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
    result = {0: "ok", 2: "refused"}.get(done.returncode, "failed")
    note = lines[-1].removeprefix("error: ")
    if result == "ok" and check.run is not None:
        note = "losses " + ", ".join(f"{value:.4f}" for value in losses(check.run))
    return Outcome(check.name, result, time.monotonic() - started, note, " ".join(["python", *check.command]))


def losses(run: Path) -> list[float]:
    """Return the loss of every step in a run folder's log, NaN where it was not finite."""
    terms = [entry["losses"]["loss"] for entry in RunFolder(run).entries() if entry["kind"] == "train"]
    return [math.nan if loss is None else loss for loss in terms]


def compare(outcome: Outcome, on_cpu: Path, on_device: Path) -> None:
    """Add to ``outcome`` how far the first loss on the device lies from the CPU's; it fails beyond :data:`LOSS_GATE`."""
    usrn = on_cpu.name == "usrn"
    there, here = losses(on_cpu), losses(on_device / "usrn" if usrn else on_device)
    if not there:
        outcome.note += "; the CPU's training did not end, so there is nothing to compare with"
        return
    difference = abs(here[0] - there[0]) / max(abs(there[0]), 1e-12)
    outcome.note += f"; first loss {difference:.1e} from the CPU's"
    if not difference <= LOSS_GATE:
        outcome.result = "failed"


def report(out: Path, options: argparse.Namespace, outcomes: Sequence[Outcome]) -> None:
    """Write ``report.md`` and ``report.json``."""
    machine = describe() | {"devices": devices()}
    about = [f"- {key}: {json.dumps(value) if isinstance(value, dict) else value}" for key, value in machine.items()]
    rows = [f"| {o.name} | {o.result} | {o.seconds:.0f} | {o.note.replace('|', '/')} |" for o in outcomes]
    commands = [f"{o.command}" for o in outcomes if o.result != "ok"]
    parts = [
        f"# Device check: {options.framework}",
        *about,
        "",
        "| check | result | seconds | note |",
        "| --- | --- | --- | --- |",
    ]
    parts += rows + (["", "What did not run:", "", "```", *commands, "```"] if commands else [])
    write_text_atomic(out / "report.md", "\n".join(parts) + "\n")
    plain: dict[str, Any] = {"framework": options.framework, "machine": machine, "checks": list(map(asdict, outcomes))}
    write_json_atomic(out / "report.json", plain)


def devices() -> str:
    """Return what the vendor's tool says of the machine's accelerators, empty without one."""
    for command in (
        ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
        ["npu-smi", "info", "-l"],
    ):
        if shutil.which(command[0]):
            return "; ".join(subprocess.run(command, capture_output=True, text=True).stdout.split("\n")).strip("; ")
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.device_check",
        description="Try everything that needs a GPU or an Ascend, and write one report.",
    )
    parser.add_argument("framework", choices=[*FRAMEWORKS, "onnx"])
    parser.add_argument("--device", default="auto", help="as trainer.device: auto (default), cpu, cuda:0, ascend:0")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, metavar="PRECISION")
    parser.add_argument(
        "--providers", nargs="+", default=PROVIDERS, metavar="PROVIDER", help="of ONNX Runtime, as bench takes them"
    )
    parser.add_argument("--out", type=user_path, metavar="DIR", help="default: runs/device_check/FRAMEWORK")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
