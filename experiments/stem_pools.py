"""``python -m experiments.stem_pools EXPERIMENT --checkpoint FILE``: what the stem's max-pool does to a network, stage by stage.

This is the difference between PCR's MindSpore release and its origin. MindSpore's ``same`` padding pads an even length at its
end only and gives k values for 2k; PyTorch's padding 1 with ``ceil_mode`` gives k + 1, centred elsewhere. Both agree where
height and width are 1 or 2 modulo 4. Both pools run in PyTorch and MindSpore, each in a process of its
own, on a whole image and on its part of 1 modulo 4. Exit code 1 if the frameworks differ with the same pool.
"""

from __future__ import annotations

import argparse
import dataclasses
import html
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.checkpoints.checkpoint import read, write
from common.command_line import EXPERIMENT, experiment_arguments, run_command, run_module, user_path
from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import open_dataset
from common.errors import CheckFailed, UserError
from common.files import write_json_atomic, write_text_atomic
from common.images.normalise import planes
from common.images.resize import resize_bilinear
from common.models.model_folder import experiment_of
from common.reports.html_page import page, table
from common.runtimes import FRAMEWORKS
from converters.convert import described_by
from converters.parity import Gates

POOLS = ("same", "ceil")

Stages = Mapping[str, np.ndarray]
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parsed = _parser().parse_intermixed_args(arguments)
    config = experiment_of(parsed.experiment, parsed.overrides)
    images = pool_images(config)
    with tempfile.TemporaryDirectory() as scratch:
        models = write_models(parsed.checkpoint, config, Path(scratch))
        tables = {
            size: pool_table(run_stages(models, image, Path(scratch)), image.shape[2:])
            for size, image in images.items()
        }
    failures = [
        f"stem_pool={pool}, {size}: torch and mindspore differ at {row['stage']}"
        for size, rows in tables.items()
        for row in rows
        for pool in POOLS
        if not row[f"frameworks_{pool}"] <= Gates().relative_error
    ]
    outcome = {"experiment": config.name, "checkpoint": str(parsed.checkpoint), "tables": tables, "failures": failures}
    write_json_atomic(parsed.out / "stem_pools.json", outcome)
    write_text_atomic(parsed.out / "stem_pools.html", page_of(config.name, tables))
    print(format_pools(tables))
    print(f"written: {parsed.out / 'stem_pools.json'}, {parsed.out / 'stem_pools.html'}")
    if failures:
        raise CheckFailed("; ".join(failures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.stem_pools",
        description="Run a network with both stem pools (network.stem_pool same and ceil) in PyTorch and MindSpore.",
    )
    experiment_arguments(parser, f"{EXPERIMENT}, or a run's folder", "settings, e.g. network.preset=pcr")
    parser.add_argument("--checkpoint", type=user_path, required=True, help=".pth, .ckpt or .safetensors")
    parser.add_argument(
        "--out", type=user_path, default=Path("stem_pools"), help="folder for the tables (default: stem_pools/)"
    )
    return parser


def pool_images(config: ExperimentConfig) -> dict[str, np.ndarray]:
    """Return the first validation image, and its upper left part whose sides are 1 modulo 4, float32 ``[1,3,H,W]``, by size.

    Raises :class:`UserError` for an encoder without a pool.
    """
    if config.network.encoder == "tiny":
        raise UserError("stem pools are those of a ResNet; the tiny encoder of this experiment has none")
    dataset = open_dataset(config.dataset)
    image = planes(dataset.image(dataset.val_ids[0]), config.normalisation)[None]
    height, width = (side - (side - 1) % 4 for side in image.shape[2:])
    parts = (image, image[:, :, :height, :width])
    return {f"{part.shape[2]}x{part.shape[3]}": np.ascontiguousarray(part) for part in parts}


def write_models(path: Path, config: ExperimentConfig, folder: Path) -> dict[str, Path]:
    """Write the checkpoint's network once with each pool into ``folder`` and return the files."""
    checkpoint = described_by(read(path).only(), config)
    models = {pool: folder / f"{pool}.safetensors" for pool in POOLS}
    for pool, model in models.items():
        meta = dataclasses.replace(checkpoint.meta, network={**checkpoint.meta.network, "stem_pool": pool})
        write(model, dataclasses.replace(checkpoint, meta=meta))
    return models


def run_stages(models: Mapping[str, Path], image: np.ndarray, folder: Path) -> dict[tuple[str, str], Stages]:
    """Return the stages of ``image`` by framework and pool."""
    source, target, runs = folder / "image.npy", folder / "stages.npz", {}
    np.save(source, image)
    for framework in FRAMEWORKS:
        for pool, model in models.items():
            run_module("converters.stages", framework, str(model), str(source), str(target))
            with np.load(target) as content:
                runs[framework, pool] = dict(content)
    return runs


def pool_table(runs: Mapping[tuple[str, str], Stages], size: tuple[int, int]) -> list[Row]:
    """Return a row per stage, of images of ``size``, for the stages of every (framework, pool).

    ``shape_POOL`` [C,h,w]; ``frameworks_POOL`` the relative difference between the frameworks; ``pools`` that between
    the pools in PyTorch, None where the sizes differ; ``flips`` the share of pixels whose class differs, for logits.
    """
    full = {key: with_full_size(stages, size) for key, stages in runs.items()}
    rows = []
    for stage in full["torch", "same"]:
        values = {key: stages[stage] for key, stages in full.items()}
        same, ceil = values["torch", "same"], values["torch", "ceil"]
        comparable = same.shape == ceil.shape
        row = {"stage": stage, "shape_same": list(same.shape[1:]), "shape_ceil": list(ceil.shape[1:])}
        row |= {f"frameworks_{p}": relative(values["mindspore", p], values["torch", p]) for p in POOLS}
        row["pools"] = relative(same, ceil) if comparable else None
        is_logits = stage.endswith("logits") and comparable
        row["flips"] = float((same.argmax(1) != ceil.argmax(1)).mean()) if is_logits else None
        rows.append(row)
    return rows


def with_full_size(stages: Stages, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return the stages with the linear logits resized to the image behind them."""
    result = dict(stages)
    prototype_logits = result.pop("prototype_logits", None)
    result["full-size logits"] = resize_bilinear(stages["logits"], size)
    return result if prototype_logits is None else result | {"full-size prototype logits": prototype_logits}


def relative(computed: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative Frobenius error; infinite for another shape."""
    if computed.shape != expected.shape:
        return float("inf")
    return float(np.linalg.norm(computed - expected) / max(np.linalg.norm(expected), 1e-30))


def format_pools(tables: Mapping[str, list[Row]]) -> str:
    """Return the tables as text, each with the first stage at which the pools part."""
    lines = []
    for size, rows in tables.items():
        first = next((row for row in rows if row["pools"] is None or row["pools"] > 1e-4), None)
        where = f"the pools part at {first['stage']}" if first else "both pools give the same"
        lines += ["", f"image {size}: {where}"]
        lines.append(
            f"{'stage':<27} {'same':>13} {'ceil':>13}  torch/mindspore: same    ceil   same/ceil  classes differ"
        )
        for row in rows:
            shapes = ["x".join(map(str, row[f"shape_{pool}"])) for pool in POOLS]
            apart = "sizes differ" if row["pools"] is None else f"{row['pools']:.1e}"
            flips = "" if row["flips"] is None else f"{100 * row['flips']:.2f} %"
            frameworks = f"{row['frameworks_same']:>21.1e} {row['frameworks_ceil']:>7.1e}"
            lines.append(
                f"{row['stage']:<27} {shapes[0]:>13} {shapes[1]:>13}  {frameworks} {apart:>12}  {flips:>12}".rstrip()
            )
    return "\n".join(lines[1:])


def page_of(experiment: str, tables: Mapping[str, list[Row]]) -> str:
    """Return the tables as one self-contained page."""
    sections = []
    for size, rows in tables.items():
        cells = []
        for row in rows:
            shapes = ["x".join(map(str, row[f"shape_{pool}"])) for pool in POOLS]
            apart = "sizes differ" if row["pools"] is None else row["pools"]
            flips = "" if row["flips"] is None else f"{100 * row['flips']:.2f} %"
            cells.append([row["stage"], *shapes, row["frameworks_same"], row["frameworks_ceil"], apart, flips])
        head = ["stage", *POOLS, *(f"torch / mindspore, {pool}" for pool in POOLS), "same / ceil", "classes differ"]
        sections += [f"<h2>Image {html.escape(size)}</h2>", table(head, cells)]
    return page(f"{experiment}: stem pools same and ceil", sections)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
