"""``python -m onnx_impl.quantize MODEL.onnx OUT.onnx EXPERIMENT``: an int8 model that has shown what it loses.

Calibrated on training images, then scored beside the float32 model on the validation images in one pass. Nothing is
written unless mIoU, the worst class and the share of changed pixels keep their limits. Where they do not at first, a
processor whose 8-bit sums overflow gets weights of 7 bits, and then the convolutions that add most noise stay float, the
last one first; the file and the last line name them. ``--exact-sums`` judges for processors that do not overflow.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.command_line import number, positive, run_command, user_path
from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import open_dataset
from common.errors import CheckFailed, UserError
from common.files import atomic_path, sha256
from common.models.model_folder import experiment_of, model_file
from common.splits.registry import digest
from onnx_impl.calibration import CalibrationImages, calibration_ids
from onnx_impl.providers import ProviderOptions
from onnx_impl.scores import Limits, Score, add_limits, compare

KEPT_FLOAT = (1, 2, 4, 8)
"""How many convolutions stay float in the attempts that are made after the first, one after the other."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_intermixed_args(arguments)
    if options.out.suffix != ".onnx":
        raise UserError(f"{options.out}: the file to write must be called .onnx")
    config = experiment_of(options.experiment, options.overrides)
    limits = Limits.of(options)
    quantize(model_file(options.model, "onnx"), options.out, config, limits, options)


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One form of the model: the nodes that stay float, and whether weights have 7 bits."""

    kept: tuple[str, ...]
    reduce_range: bool


def quantize(
    source: Path, out: Path, config: ExperimentConfig, limits: Limits, options: argparse.Namespace
) -> tuple[Score, list[str]]:
    """Write the int8 form of ``source`` to ``out``; return its score and the convolutions that stayed float.

    Raises :class:`UserError` when ``source`` is no float32 model of the experiment or calibration would touch the
    validation images, :class:`CheckFailed` when no attempt keeps the limits; ``out`` is then as it was before.
    """
    import onnx

    from onnx_impl import graphs
    from onnx_impl.eval import open_model
    from onnx_impl.recipes import Recipe, convolutions, prepare, saturates

    provider = ProviderOptions(threads=config.trainer.threads, exact_sums=options.exact_sums)
    reference = open_model(source, config, provider)
    metadata = reference.metadata
    if metadata.precision != "fp32":
        raise UserError(f"{source} is {metadata.precision} already; quantise the float32 model it was made from")
    dataset = open_dataset(config.dataset)
    ids = calibration_ids(dataset, options.images, options.seed, options.calibration_list)
    judged = dataset.val_ids[: options.limit]
    inputs = CalibrationImages(dataset, ids, config, metadata)
    recipe = Recipe(target=options.target, calibration=options.calibration, reduce_range=options.reduce_range)
    print(
        f"{source}: {recipe.scheme}, {recipe.calibration} on {len(ids)} training images, judged on {len(judged)} "
        f"validation images of {config.name}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        prepare(source, prepared)
        names = convolutions(prepared)
        for attempt in attempts(prepared, made, recipe, metadata.input, inputs, options.exact_sums):
            readable = [names[node] for node in attempt.kept]
            recipe = dataclasses.replace(recipe, reduce_range=attempt.reduce_range)
            calibrate(prepared, made, source, metadata.input, inputs, recipe, attempt.kept)
            overflow = not options.exact_sums and saturates(made, metadata.input, inputs)
            origin = {"source_sha256": sha256(source), "quantization": describe(recipe, ids, readable), "gates": None}
            changed = dataclasses.replace(metadata, precision="int8", **origin)
            graphs.save(onnx.load(made), changed, made)
            before, score = compare([reference, open_model(made, config, provider)], dataset, judged, config)
            beyond = score.beyond(limits)
            print(line(score, before, readable, attempt.reduce_range, beyond), flush=True)
            if not beyond:
                gates = measured(config, before, score, limits, overflow)
                with atomic_path(out) as temporary:
                    graphs.save(onnx.load(made), dataclasses.replace(changed, gates=gates), temporary)
                sizes = f"{out.stat().st_size / 1e6:.1f} MB of {source.stat().st_size / 1e6:.1f}"
                print(f"{out}: int8 {recipe.scheme}, {sizes}")
                return score, readable
    hint = " (this processor's 8-bit sums overflow: --exact-sums judges for one with VNNI)" if overflow else ""
    raise CheckFailed(
        f"{out} was not written: with {len(readable)} convolutions in float still {'; '.join(beyond)}{hint}; try "
        "--calibration minmax or more --images, or allow more with --max-drop, --max-class-drop, --max-flips"
    )


def calibrate(
    prepared: Path,
    made: Path,
    source: Path,
    name: str,
    inputs: CalibrationImages,
    recipe: Any,
    kept: tuple[str, ...],
) -> None:
    """Write the int8 form of ``prepared``, whose input is called ``name``, to ``made``; the nodes ``kept`` stay float.

    Raises :class:`UserError` when ``source``, which it was prepared from, computes NaN or infinity.
    """
    from onnx_impl.recipes import finite, quantise

    try:
        quantise(prepared, made, name, inputs, recipe, kept)
    except ValueError as error:  # the library's histogram of a tensor with NaN
        if finite(prepared, name, inputs):
            raise
        raise UserError(
            f"{source} computes values that are not finite on the calibration images; is the file damaged? Export its "
            "checkpoint again"
        ) from error


def measured(config: ExperimentConfig, before: Score, score: Score, limits: Limits, overflow: bool) -> dict[str, Any]:
    """Return the metadata's ``gates``: what was lost, on what, and the limits that it kept."""
    return {
        "reference": "the float32 model", "experiment": config.name, **score.plain(),
        "float32_miou": round(before.miou, 4), "sums_overflow": overflow, "limits": dataclasses.asdict(limits),
    }  # fmt: skip


def attempts(
    prepared: Path, made: Path, recipe: Any, name: str, inputs: CalibrationImages, exact_sums: bool
) -> Iterator[Attempt]:
    """Yield what to try, each time because what was made before, and lies at ``made``, lost too much."""
    from onnx_impl.recipes import convolutions, noisiest, saturates

    nodes, reduce_range = list(convolutions(prepared)), recipe.reduce_range
    yield Attempt((), reduce_range)
    order = [nodes[-1], *(node for node in noisiest(prepared, made, name, inputs) if node != nodes[-1])]
    if not reduce_range and not exact_sums and saturates(made, name, inputs):
        reduce_range = True
        yield Attempt((), reduce_range)
    for count in KEPT_FLOAT:
        if count < len(nodes):
            yield Attempt(tuple(order[:count]), reduce_range)


def describe(recipe: Any, ids: tuple[str, ...], kept: list[str]) -> dict[str, Any]:
    """Return the metadata's ``quantization``: all that decides the file beside its source."""
    import onnxruntime

    return {
        "scheme": recipe.scheme, "per_channel": True, "target": recipe.target, "calibration": recipe.calibration,
        "reduce_range": recipe.reduce_range, "images": len(ids), "images_sha256": digest(ids), "kept_float": kept,
        "onnxruntime": onnxruntime.__version__,
    }  # fmt: skip


def line(score: Score, before: Score, kept: list[str], reduce_range: bool, beyond: list[str]) -> str:
    """Return one attempt as text."""
    return (
        f"mIoU {before.miou:.3f} -> {score.miou:.3f}, worst class {score.worst_class} {-score.class_drop:+.2f}, "
        f"{100 * score.flips:.2f} % of pixels change; {in_words(kept, reduce_range)}: {'; '.join(beyond) or 'within the limits'}"
    )


def in_words(kept: list[str], reduce_range: bool) -> str:
    """Return which convolutions stayed float and how many bits the weights of the others have."""
    bits = f"weights in {7 if reduce_range else 8} bits"
    return f"{bits}, float stayed {', '.join(kept)}" if kept else f"every convolution with {bits}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m onnx_impl.quantize",
        description="Quantise an exported float32 model to int8, and gate what it loses.",
    )
    parser.add_argument(
        "model", type=user_path, help="a float32 .onnx file of converters.export_onnx, or a packaged model's folder"
    )
    parser.add_argument("out", type=user_path, help="the .onnx file to write")
    parser.add_argument(
        "experiment", help="DATASET/SPLIT/METHOD whose data set calibrates and judges, or a packaged model's folder"
    )
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings, e.g. evaluation.protocol=whole")
    parser.add_argument(
        "--target",
        choices=("cpu", "tensorrt"),
        default="cpu",
        help="cpu: unsigned activations (U8S8), also for OpenVINO; tensorrt: symmetric signed ones (default: cpu)",
    )
    parser.add_argument(
        "--images", type=positive, default=16, metavar="N", help="training images to calibrate on (default: 16)"
    )
    parser.add_argument("--seed", type=number(0, kind=int), default=0, help="which training images (default: 0)")
    parser.add_argument(
        "--calibration-list", type=user_path, metavar="FILE", help="calibrate on the training images that FILE names"
    )
    parser.add_argument(
        "--calibration",
        choices=("percentile", "minmax", "entropy"),
        default="percentile",
        help="how ranges come from activations (default: percentile, 99.99)",
    )
    parser.add_argument(
        "--exact-sums",
        action="store_true",
        help="judge without overflow of 8-bit sums: for processors with VNNI, ARM and OpenVINO",
    )
    parser.add_argument(
        "--reduce-range", action="store_true", help="weights in 7 bits: for x86 CPUs without VNNI, where 8 can saturate"
    )
    add_limits(parser, Limits())
    return parser  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(run_command(main))
