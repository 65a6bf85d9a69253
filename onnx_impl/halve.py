"""``python -m onnx_impl.halve MODEL.onnx OUT.onnx EXPERIMENT``: a float16 model that has shown what it loses.

Half the file and, on GPUs, half the memory traffic; CPUs compute it no faster than float32. Scored beside the float32
model on the validation images in one pass, and written only within the limits.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

from common.command_line import run_command, user_path
from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import open_dataset
from common.errors import CheckFailed, UserError
from common.files import atomic_path, sha256
from common.models.model_folder import experiment_of, model_file
from onnx_impl.providers import ProviderOptions
from onnx_impl.scores import Limits, Score, add_limits, compare

LIMITS = Limits(drop=0.05, class_drop=0.3, flips=1e-3)
"""About three times what float16 loses on CamVid."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_intermixed_args(arguments)
    if options.out.suffix != ".onnx":
        raise UserError(f"{options.out}: the file to write must be called .onnx")
    config = experiment_of(options.experiment, options.overrides)
    limits = Limits.of(options)
    source = model_file(options.model, "onnx")
    score = halve(source, options.out, config, limits, options.limit)
    print(
        f"{options.out}: float16, {options.out.stat().st_size / 1e6:.1f} MB of {source.stat().st_size / 1e6:.1f}, mIoU "
        f"{score.miou + score.drop:.3f} -> {score.miou:.3f}, {100 * score.flips:.3f} % of pixels change"
    )


def halve(source: Path, out: Path, config: ExperimentConfig, limits: Limits, limit: int | None) -> Score:
    """Write the float16 form of ``source`` to ``out`` and return its score on ``limit`` validation images (None: all).

    Raises :class:`UserError` when ``source`` is no float32 model of the experiment, :class:`CheckFailed` past the limits.
    """
    import onnx

    from onnx_impl import graphs
    from onnx_impl.eval import open_model

    provider = ProviderOptions(threads=config.trainer.threads)
    reference = open_model(source, config, provider)
    metadata = reference.metadata
    if metadata.precision != "fp32":
        raise UserError(f"{source} is {metadata.precision} already; halve the float32 model it was made from")
    dataset = open_dataset(config.dataset)
    model = graphs.with_half_precision(onnx.load(source))
    changed = dataclasses.replace(metadata, precision="fp16", source_sha256=sha256(source), gates=None)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "half.onnx"
        graphs.save(model, changed, made)
        predictors = [reference, open_model(made, config, provider)]
        before, score = compare(predictors, dataset, dataset.val_ids[:limit], config)
    beyond = score.beyond(limits)
    if beyond:
        raise CheckFailed(
            f"{out} was not written: {'; '.join(beyond)}; allow more with --max-drop, --max-class-drop, --max-flips"
        )
    gates = {"reference": "the float32 model", "experiment": config.name, **score.plain()}
    gates |= {"float32_miou": round(before.miou, 4), "limits": dataclasses.asdict(limits)}
    with atomic_path(out) as temporary:
        graphs.save(model, dataclasses.replace(changed, gates=gates), temporary)
    return score


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m onnx_impl.halve",
        description="Convert an exported float32 model to float16, and gate what it loses.",
    )
    parser.add_argument(
        "model", type=user_path, help="a float32 .onnx file of converters.export_onnx, or a packaged model's folder"
    )
    parser.add_argument("out", type=user_path, help="the .onnx file to write")
    parser.add_argument("experiment", help="DATASET/SPLIT/METHOD whose data set judges, or a packaged model's folder")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings, e.g. evaluation.protocol=whole")
    add_limits(parser, LIMITS)
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
