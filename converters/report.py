"""``report.html``: one self-contained page of a parity run - scores, pictures of every runtime, differing pixels, curves."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.arrays import IGNORE, center_box
from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import open_dataset
from common.files import write_text_atomic
from common.images.geometry import pad_to
from common.images.picture import read_indices
from common.models.model_folder import experiment_of
from common.reports import charts
from common.reports.html_page import legend, page, spread, table
from common.reports.palettes import colours
from common.reports.pictures import difference_map, png_data_uri
from common.runs.run_folder import RunFolder


def parity_report(
    out: Path,
    outcome: dict[str, Any],
    experiment: str,
    overrides: Sequence[str] = (),
    run_folder: Path | None = None,
    pictures: int = 6,
) -> Path:
    """Write ``report.html`` from the dumps of a parity run in ``out`` and return its path.

    ``run_folder`` is the training run whose log gives the curves.
    """
    config = experiment_of(experiment, list(overrides))
    dataset = open_dataset(config.dataset)
    sections = [
        _verdict(outcome),
        "<h2>Scores</h2>",
        _scores(outcome),
        "<h2>Agreement</h2>",
        _pairs(outcome),
    ]
    if run_folder is not None:
        sections += _curves(RunFolder(run_folder))
    palette = colours(config.dataset.palette, len(dataset.classes))
    sections += ["<h2>Pictures</h2>", legend(dataset.classes, palette)]
    folder = out / "torch" / "ids"
    names = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.png"))
    for name in spread(names, pictures):
        sections.append(_strip(out, name, dataset, palette, list(outcome["scores"]), config))
    path = out / "report.html"
    write_text_atomic(path, page(f"{config.name}: one checkpoint, {len(outcome['scores'])} runtimes", sections))
    return path


def _verdict(outcome: dict[str, Any]) -> str:
    if outcome["failures"]:
        items = "".join(f"<li>{html.escape(text)}</li>" for text in outcome["failures"])
        return f'<p class="fail">Gates failed:</p><ul>{items}</ul>'
    return '<p class="pass">All gates hold.</p>'


def _scores(outcome: dict[str, Any]) -> str:
    rows = []
    for name, score in (outcome.get("baselines", {}) | outcome["scores"]).items():
        where = f"{score['device']} ({score['version']})"
        rows.append([name, f"{score['miou_percent']:.3f}", score["seconds_per_image"], where])
    return table(["network / runtime", "mIoU %", "seconds per image", "device"], rows)


def _pairs(outcome: dict[str, Any]) -> str:
    gates = outcome["gates"]
    rows = [
        [" / ".join(pair["runtimes"]), f"{pair['miou_points']:.3f}", pair["flips"], pair["relative_error"]]
        for pair in outcome["pairs"]
    ]
    rows.append(["gate", f"{gates['miou_points']:.3f}", gates["flips"], gates["relative_error"]])
    return table(["pair", "mIoU difference, points", "share of pixels that differ", "relative error of logits"], rows)


def _curves(folder: RunFolder) -> list[str]:
    entries = folder.entries()
    train = [entry for entry in entries if entry["kind"] == "train"]
    scores = [(entry["iteration"], 100 * entry["miou"]) for entry in entries if entry["kind"] == "evaluation"]
    if not train:
        return []
    if not charts.available():
        return ["<h2>Training</h2>", f"<p>{html.escape(charts.MISSING)}</p>"]
    names = list(train[-1]["losses"])
    losses = {
        name: [(e["iteration"], e["losses"][name]) for e in train if e["losses"].get(name) is not None]
        for name in names
    }
    parts = ["<h2>Training</h2>", charts.line_chart("loss terms", losses, "iteration", "loss")]
    if scores:
        parts.append(charts.line_chart("validation mIoU", {"mIoU": scores}, "iteration", "mIoU %"))
    return parts


def judged(image: np.ndarray, label: np.ndarray, config: ExperimentConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of image uint8 ``[H,W,3]`` and label uint8 ``[H,W]`` that the evaluation protocol judges."""
    if config.evaluation.protocol != "center_crop":
        return image, label
    size = config.evaluation.size
    image, label = pad_to(image, size, 0), pad_to(label, size, config.evaluation.pad_label)
    box = center_box(label.shape, (size, size))
    return image[box.rows, box.columns], label[box.rows, box.columns]


def _strip(
    out: Path, name: str, dataset: Any, palette: np.ndarray, runtimes: Sequence[str], config: ExperimentConfig
) -> str:
    """Return one row of pictures: image, truth, every runtime's prediction and where the others differ from the first."""
    image, label = judged(dataset.image(name), dataset.label(name), config)
    ids = {runtime: read_indices(out / runtime / "ids" / f"{name}.png", "prediction") for runtime in runtimes}
    reference = ids[runtimes[0]]
    panels = [(f"{name}", image), ("ground truth", palette[label])]
    for runtime in runtimes:
        wrong = int(((ids[runtime] != label) & (label != IGNORE)).sum())
        panels.append((f"{runtime}: {wrong} pixels wrong", palette[ids[runtime]]))
    for runtime in runtimes[1:]:
        count = int((ids[runtime] != reference).sum())
        panels.append(
            (f"{runtime} against {runtimes[0]}: {count} pixels differ", difference_map(reference, ids[runtime]))
        )
    figures = "".join(
        f'<figure><img alt="{html.escape(text)}" src="{png_data_uri(picture)}"><figcaption>{html.escape(text)}</figcaption></figure>'
        for text, picture in panels
    )
    return f'<div class="pictures" style="grid-template-columns: repeat({len(panels)}, 1fr)">{figures}</div>'
