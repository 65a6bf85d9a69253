"""What the stem's max-pool does to a network, stage by stage: the difference between PCR's MindSpore release and its origin.

MindSpore's ``same`` padding pads an even length at its end only and gives k values for 2k; PyTorch's padding 1 with
``ceil_mode`` gives k + 1, centred elsewhere. Both agree where height and width are 1 or 2 modulo 4 (``specs/pcr.md`` 2.5).
``converters.parity --pools`` runs both in PyTorch and MindSpore, on a whole image and on its part of 1 modulo 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import open_dataset
from common.errors import UserError
from common.images.normalise import normalise
from common.images.resize import resize_bilinear
from common.runtimes import FRAMEWORKS

POOLS = ("same", "ceil")

Stages = Mapping[str, np.ndarray]


def pool_images(config: ExperimentConfig) -> dict[str, np.ndarray]:
    """Return the first validation image, and its upper left part whose sides are 1 modulo 4, float32 ``[1,3,H,W]``, by size.

    Raises :class:`UserError` for an encoder without a pool.
    """
    if config.network.encoder == "tiny":
        raise UserError("--pools compares the stem pools of a ResNet; the tiny encoder of this experiment has none")
    dataset = open_dataset(config.dataset)
    planes = normalise(dataset.image(dataset.val_ids[0]), config.augment).transpose(2, 0, 1)[None]
    height, width = (side - (side - 1) % 4 for side in planes.shape[2:])
    parts = (planes, planes[:, :, :height, :width])
    return {f"{part.shape[2]}x{part.shape[3]}": np.ascontiguousarray(part) for part in parts}


def compare_pools(
    images: Mapping[str, np.ndarray], out: Path, run: Callable[[str, Path, Path], None], gate: float
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Return one table per image, and what the same pool gives differently in the two frameworks, past ``gate``.

    ``run(framework, images.npy, out.npz)`` writes every stage under ``POOL/STAGE``.
    """
    tables, failures = {}, []
    for size, planes in images.items():
        source = out / f"pools_{size}.npy"
        np.save(source, planes)
        found = {}
        for framework in FRAMEWORKS:
            target = out / f"pools_{size}_{framework}.npz"
            run(framework, source, target)
            with np.load(target) as content:
                stages = dict(content)
            target.unlink()
            for pool in POOLS:
                found[framework, pool] = {
                    name.partition("/")[2]: value for name, value in stages.items() if name.startswith(f"{pool}/")
                }
        tables[size] = pool_table(found, planes.shape[2:])
        for row in tables[size]:
            failures += [
                f"stem_pool={pool}, {size}: torch and mindspore differ at {row['stage']}"
                for pool in POOLS
                if not row[f"frameworks_{pool}"] <= gate
            ]
    return tables, failures


def pool_table(found: Mapping[tuple[str, str], Stages], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Return a row per stage, of images of ``size``, for the stages of every (framework, pool).

    ``shape_POOL`` [C,h,w]; ``frameworks_POOL`` the relative difference between the frameworks; ``pools`` that between
    the pools in PyTorch, None where the sizes differ; ``flips`` the share of pixels whose class differs, for logits.
    """
    full = {key: with_full_size(stages, size) for key, stages in found.items()}
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


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative Frobenius error; infinite for another shape."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30))


def format_pools(tables: Mapping[str, list[dict[str, Any]]]) -> str:
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
