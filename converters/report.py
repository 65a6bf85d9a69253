"""``report.html``: one self-contained page of a parity run - scores, pictures of every runtime, differing pixels, curves."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.config import ExperimentConfig
from common.data.augment import pad_to
from common.data.datasets import open_dataset
from common.experiment import compose
from common.files import write_text_atomic
from common.palettes import colours
from common.pictures import difference_map, line_chart, png_data_uri
from common.runs import RunFolder

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1080px; padding: 0 1rem; color: #1c2126; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2rem; font-size: 1.2rem; }
table { border-collapse: collapse; margin: .6rem 0; } th, td { padding: .35rem .8rem; border-bottom: 1px solid #d7dce1; }
th { text-align: left; background: #f2f4f6; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
.pictures { display: grid; gap: 6px; overflow-x: auto; margin-bottom: 14px; }
.pictures figure { margin: 0; } .pictures img { width: 100%; image-rendering: pixelated; display: block; }
figcaption { font-size: .78rem; color: #57606a; }
.pass { color: #1a7f37; font-weight: 600; } .fail { color: #b42318; font-weight: 600; } svg { max-width: 100%; height: auto; }
.legend span { display: inline-block; margin-right: 1rem; font-size: .85rem; }
.legend i { display: inline-block; width: .9em; height: .9em; margin-right: .3em; vertical-align: -1px; border: 1px solid #8886; }
"""


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return an HTML table; numbers are aligned to the right."""
    cells = "".join(f"<th>{html.escape(str(name))}</th>" for name in head)
    body = ""
    for row in rows:
        parts = [
            f'<td class="number">{value:.4g}</td>'
            if isinstance(value, float)
            else f"<td>{html.escape(str(value))}</td>"
            for value in row
        ]
        body += f"<tr>{''.join(parts)}</tr>"
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def page(title: str, sections: Sequence[str]) -> str:
    """Return a whole page with its style inside."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"{''.join(sections)}</body></html>\n"
    )


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
    config = compose(experiment, overrides)
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
    sections += ["<h2>Pictures</h2>", _legend(dataset.classes, palette)]
    names = sorted(path.stem for path in (out / "torch" / "ids").glob("*.png"))
    for name in _spread(names, pictures):
        sections.append(_strip(out, name, dataset, palette, list(outcome["scores"]), config))
    path = out / "report.html"
    write_text_atomic(path, page(f"{experiment}: one checkpoint, {len(outcome['scores'])} runtimes", sections))
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
    names = list(train[-1]["losses"])
    losses = {
        name: [(e["iteration"], e["losses"][name]) for e in train if e["losses"].get(name) is not None]
        for name in names
    }
    parts = ["<h2>Training</h2>", line_chart("loss terms", losses, "iteration", "loss")]
    if scores:
        parts.append(line_chart("validation mIoU", {"mIoU": scores}, "iteration", "mIoU %"))
    return parts


def _legend(classes: Sequence[str], palette: np.ndarray) -> str:
    items = [
        f'<span><i style="background: rgb({r},{g},{b})"></i>{html.escape(name)}</span>'
        for name, (r, g, b) in zip(classes, palette)
    ]
    return f'<p class="legend">{"".join(items)}</p>'


def _spread(names: Sequence[str], count: int) -> list[str]:
    """Return up to ``count`` names, evenly spread over the list."""
    if len(names) <= count:
        return list(names)
    return [names[round(index * (len(names) - 1) / (count - 1))] for index in range(count)]


def judged(image: np.ndarray, label: np.ndarray, config: ExperimentConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of image uint8 ``[H,W,3]`` and label uint8 ``[H,W]`` that the evaluation protocol judges."""
    if config.evaluation.protocol != "center_crop":
        return image, label
    size = config.evaluation.size
    image, label = pad_to(image, size, 0), pad_to(label, size, config.evaluation.pad_label)
    top, left = ((side - size) // 2 for side in label.shape)
    window = (slice(top, top + size), slice(left, left + size))
    return image[window], label[window]


def _strip(
    out: Path, name: str, dataset: Any, palette: np.ndarray, runtimes: Sequence[str], config: ExperimentConfig
) -> str:
    """Return one row of pictures: image, truth, every runtime's prediction and where the others differ from the first."""
    image, label = judged(dataset.image(name), dataset.label(name), config)
    ids = {runtime: np.asarray(Image.open(out / runtime / "ids" / f"{name}.png")) for runtime in runtimes}
    reference = ids[runtimes[0]]
    panels = [(f"{name}", image), ("ground truth", palette[label])]
    for runtime in runtimes:
        wrong = int(((ids[runtime] != label) & (label != 255)).sum())
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
