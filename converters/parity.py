"""``python -m converters.parity EXPERIMENT --checkpoint FILE``: one checkpoint in PyTorch, MindSpore and ONNX Runtime.

Converts the checkpoint, evaluates it in each runtime in a process of its own, compares predictions and logits with the gates
of the project, and writes ``parity.json`` and ``report.html``. Exit code 1 if a gate fails; the first stage of the network
that differs is then named.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from common.checkpoints.checkpoint import read
from common.command_line import EXPERIMENT, experiment_arguments, positive, run_command, run_module, user_path
from common.config.schema import ExperimentConfig
from common.errors import CheckFailed, UserError
from common.files import read_json, write_array_atomic, write_json_atomic
from common.images.picture import read_indices
from common.models.model_folder import experiment_of
from common.runtimes import FRAMEWORKS, RUNTIMES
from converters.convert import described_by, save


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gates:
    """Largest allowed differences: mIoU in points, share of pixels with another class, relative Frobenius error of the
    logits, and the error against float64 as a multiple of PyTorch's own."""

    miou_points: float = 0.05
    flips: float = 2e-4
    relative_error: float = 2e-4
    times_float64_error: float = 3.0


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parsed = _parser().parse_intermixed_args(arguments)
    outcome = run_parity(
        parsed.experiment, parsed.overrides, parsed.checkpoint, parsed.out, parsed.limit, parsed.logits
    )
    print(format_report(outcome))
    if outcome["failures"]:
        raise CheckFailed(f"parity failed: {'; '.join(outcome['failures'])} (details: {parsed.out / 'parity.json'})")
    print(f"all gates hold; details in {parsed.out / 'parity.json'}, pictures in {parsed.out / 'report.html'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m converters.parity", description=__doc__.splitlines()[0])
    experiment_arguments(parser, f"{EXPERIMENT}, or a run's folder", "settings, e.g. evaluation.protocol=whole")
    parser.add_argument("--checkpoint", type=user_path, required=True, help=".pth, .ckpt or .safetensors")
    parser.add_argument("--out", type=user_path, default=Path("parity"), help="folder for results (default: parity/)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N validation images")
    parser.add_argument(
        "--logits", type=positive, metavar="N", default=4, help="images whose logits are compared (default: 4)"
    )
    return parser


def run_parity(
    experiment: str,
    overrides: list[str],
    checkpoint: Path,
    out: Path,
    limit: int | None = None,
    logits: int = 4,
    baselines: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Convert, evaluate three times, compare; write ``parity.json`` and ``report.html`` into ``out``; return the figures.

    ``baselines`` are results (``result.json``) of other networks by name, shown above the three.
    """
    from converters.report import parity_report

    config = experiment_of(experiment, list(overrides))
    if not checkpoint.is_file():
        raise UserError(f"no checkpoint at {checkpoint}; check the path")
    out.mkdir(parents=True, exist_ok=True)
    for runtime in (*RUNTIMES, "float64"):
        shutil.rmtree(out / runtime, ignore_errors=True)
    logits = min(logits, limit or logits)
    models = convert_all(checkpoint, out, config)
    options = ["--limit", str(limit)] if limit else []
    for runtime in RUNTIMES:
        dump = ["--dump", str(out / runtime), "--dump-logits", str(logits)]
        evaluate_in(runtime, experiment, overrides, models[runtime], out / runtime, [*options, *dump])
    dump = ["--dump", str(out / "float64"), "--dump-logits", str(logits), "--float64", "--limit", str(logits)]
    evaluate_in("torch", experiment, overrides, models["torch"], out / "float64", dump)
    outcome = compare(out, Gates()) | {"experiment": experiment, "checkpoint": str(checkpoint)}
    outcome["baselines"] = {name: shown_of(result) for name, result in (baselines or {}).items()}
    if outcome["failures"]:
        outcome["first_difference"] = locate(models, out, Gates().relative_error)
        outcome["failures"] += [
            f"{runtime}: first stage that differs is {difference['stage']}"
            if difference
            else f"{runtime}: no single stage differs"
            for runtime, difference in outcome["first_difference"].items()
        ]
    write_json_atomic(out / "parity.json", outcome)
    parity_report(out, outcome, experiment, overrides, run_folder=checkpoint.parent)
    return outcome


def convert_all(path: Path, out: Path, config: ExperimentConfig) -> dict[str, Path]:
    """Write the checkpoint as ``model.pth``, ``model.ckpt`` and ``model.onnx`` into ``out`` and return the paths.

    A file of another program does not say what network it holds; then the converted ones say what ``config`` says.
    """
    models = {name: out / f"model{runtime.writes}" for name, runtime in RUNTIMES.items()}
    checkpoint = described_by(read(path).only(), config)
    for framework in FRAMEWORKS:
        save(models[framework], checkpoint)
    run_module("converters.export_onnx", str(models["torch"]), str(models["onnx"]), "--head", config.evaluation.head)
    return models


def evaluate_in(
    runtime: str, experiment: str, overrides: list[str], model: Path, out: Path, options: list[str]
) -> None:
    """Evaluate ``model`` with ``python -m RUNTIME_impl.eval`` in a process of its own."""
    run_module(
        f"{runtime}_impl.eval", experiment, *overrides, "--checkpoint", str(model), "--out", str(out), *options
    )  # fmt: skip


def compare(out: Path, gates: Gates) -> dict[str, Any]:
    """Return scores per runtime, differences per pair and the list of gates that failed, from the dumps in ``out``."""
    results = {runtime: read_json(out / runtime / "result.json") for runtime in RUNTIMES}
    own_error = relative_error(out / "torch", out / "float64")
    scores = {}
    for runtime, result in results.items():
        error = relative_error(out / runtime, out / "float64")
        scores[runtime] = shown_of(result) | {
            "error_against_float64": error,
            "times_torch_error": error / own_error if own_error else 1.0,
        }
    pairs, failures = [], []
    for first, second in itertools.combinations(RUNTIMES, 2):
        pair = {
            "runtimes": [first, second],
            "miou_points": abs(scores[first]["miou_percent"] - scores[second]["miou_percent"]),
            "flips": flips(out / first, out / second),
            "relative_error": relative_error(out / second, out / first),
        }
        pairs.append(pair)
        for quantity in ("miou_points", "flips", "relative_error"):
            if not pair[quantity] <= getattr(gates, quantity):
                failures.append(
                    f"{first} and {second}: {quantity} {pair[quantity]:.2e} above {getattr(gates, quantity):g}"
                )
    for runtime, score in scores.items():
        if not score["times_torch_error"] <= gates.times_float64_error:
            failures.append(f"{runtime}: error against float64 is {score['times_torch_error']:.1f} times PyTorch's own")
    return {"gates": dataclasses.asdict(gates), "scores": scores, "pairs": pairs, "failures": failures}


def shown_of(result: dict[str, Any]) -> dict[str, Any]:
    """Return what the tables show of one ``result.json``."""
    return {
        "miou_percent": result["miou_percent"],
        "seconds_per_image": result["seconds"] / result["images"],
        "device": result["runtime"]["device"],
        "version": result["runtime"]["version"],
        "images": result["images"],
    }


def relative_error(folder: Path, reference: Path) -> float:
    """Return the relative Frobenius error of all dumped logits in ``folder`` against those in ``reference``."""
    difference = norm = 0.0
    for path in sorted((reference / "logits").rglob("*.npy")):
        expected = np.load(path).astype(np.float64)
        difference += float(np.square(np.load(folder / path.relative_to(reference)) - expected).sum())
        norm += float(np.square(expected).sum())
    if not norm:
        raise UserError(f"{reference / 'logits'} holds no logits to compare; evaluate with --dump-logits")
    return float(np.sqrt(difference / norm))


def flips(first: Path, second: Path) -> float:
    """Return the share of pixels whose dumped class differs."""
    different = total = 0
    for path in sorted((first / "ids").rglob("*.png")):
        name = path.relative_to(first)
        left, right = (read_indices(folder / name, "prediction") for folder in (first, second))
        different += int((left != right).sum())
        total += left.size
    if not total:
        raise UserError(f"{first / 'ids'} holds no predictions to compare; evaluate with --dump")
    return different / total


def locate(models: dict[str, Path], out: Path, gate: float) -> dict[str, Any]:
    """Return, for MindSpore and ONNX Runtime, the first stage that differs from PyTorch on a random image."""
    from common.rng import generator
    from converters.export_onnx import export
    from converters.stages import first_difference

    image = generator(0, "parity stages").standard_normal((1, 3, 97, 130)).astype(np.float32)
    write_array_atomic(out / "stages_image.npy", image)
    staged = dict(models)
    try:
        staged["onnx"] = export(models["torch"], out / "stages.onnx", stages=True).path
    except CheckFailed:
        del staged["onnx"]
    stages = {}
    for runtime, model in staged.items():
        run_module(
            "converters.stages", runtime, str(model), str(out / "stages_image.npy"), str(out / f"stages_{runtime}.npz")
        )
        stages[runtime] = dict(np.load(out / f"stages_{runtime}.npz"))
    return {
        runtime: first_difference(stages["torch"], stages[runtime], gate) for runtime in staged if runtime != "torch"
    }


def format_report(outcome: dict[str, Any]) -> str:
    """Return the tables of scores and differences as text."""
    lines = [f"{'network / runtime':<20} {'mIoU %':>8} {'s/image':>8} {'err vs f64':>11}  device"]
    for name, row in (outcome.get("baselines", {}) | outcome["scores"]).items():
        error = f"{row['error_against_float64']:.1e}" if "error_against_float64" in row else ""
        lines.append(
            f"{name:<20} {row['miou_percent']:>8.3f} {row['seconds_per_image']:>8.3f} {error:>11}  "
            f"{row['device']} ({row['version']})"
        )
    lines += ["", f"{'pair':<21} {'mIoU points':>11} {'flips':>9} {'rel. error':>11}"]
    for pair in outcome["pairs"]:
        lines.append(
            f"{' / '.join(pair['runtimes']):<21} {pair['miou_points']:>11.3f} {pair['flips']:>9.1e} {pair['relative_error']:>11.1e}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
