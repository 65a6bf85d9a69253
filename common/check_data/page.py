"""The page of ``python -m common.check_data``: lists, problems, class histogram and sample overlays in one HTML file."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.check_data.findings import Histogram, Problems
from common.datasets.file_dataset import Dataset
from common.errors import UserError
from common.files import write_text_atomic
from common.reports.html_page import legend, page, spread, table
from common.reports.palettes import colours
from common.reports.pictures import jpeg_data_uri, overlay
from common.splits.split import Split

SAMPLE_WIDTH = 360
"""Largest width of a picture on the page, in pixels."""
SHOWN = 200
"""Number of problems that the page spells out."""


def write_page(
    path: Path,
    dataset: Dataset,
    split: Split | None,
    lists: Mapping[str, Sequence[str]],
    histograms: Mapping[str, Histogram],
    problems: Problems,
    samples: int,
) -> None:
    """Write the page; ``lists`` are ids by part, ``samples`` the number of pictures, spread over all parts."""
    palette = colours(dataset.config.palette, len(dataset.classes))
    rows = [[part, len(ids), _digest(part, split)] for part, ids in lists.items()]
    sections = [
        *_verdict(problems),
        "<h2>Lists</h2>",
        table(["list", "images", "SHA-256 of the sorted ids"], rows),
        "<h2>Classes</h2>",
        *(_histogram(part, dataset.classes, histogram, palette) for part, histogram in histograms.items()),
        "<h2>Samples</h2>",
        legend(dataset.classes, palette),
        "".join(_samples(dataset, lists, palette, samples)),
    ]
    name = f"{dataset.name}/{split.id}" if split else dataset.name
    write_text_atomic(path, page(f"Data of {name}", sections))


def _digest(part: str, split: Split | None) -> str:
    digests = {"labelled": split.digest, "unlabelled": split.unlabelled_digest} if split else {}
    return digests.get(part, "")


def _verdict(problems: Problems) -> Iterator[str]:
    if problems.lines:
        yield f'<p class="fail">{len(problems.lines)} problem(s)</p>{_items(list(problems.lines))}'
    else:
        yield '<p class="pass">No problem found.</p>'
    if problems.remarks:
        yield f"<p>Worth knowing:</p>{_items(list(problems.remarks))}"


def _items(texts: Sequence[str]) -> str:
    more = f"<li>and {len(texts) - SHOWN} more</li>" if len(texts) > SHOWN else ""
    return f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts[:SHOWN])}{more}</ul>"


def _histogram(part: str, classes: Sequence[str], histogram: Histogram, palette: np.ndarray) -> str:
    """Return a table with one bar per class, as long as its share of the pixels."""
    total, longest = max(sum(histogram.pixels), 1), max(*histogram.pixels, 1)
    rows = ""
    for place, name in enumerate([*classes, "(ignored)"]):
        pixels = histogram.pixels[place]
        red, green, blue = palette[place if place < len(classes) else 255]
        bar = f'<span class="bar" style="width: {24 * pixels / longest:.2f}em; background: rgb({red},{green},{blue})"></span>'
        cells = f'<td class="number">{100 * pixels / total:.3f}</td><td class="number">{histogram.images[place]}</td>'
        rows += f"<tr><td>{html.escape(name)}</td><td>{bar}</td>{cells}</tr>"
    head = "<tr><th>class</th><th></th><th>% of pixels</th><th>images</th></tr>"
    return f"<h3>{html.escape(part)}</h3><table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _samples(dataset: Dataset, lists: Mapping[str, Sequence[str]], palette: np.ndarray, count: int) -> Iterator[str]:
    """Yield figures of images spread over each list: the picture, and with its label where it has one."""
    each = max(count // len(lists), 1)
    for part, ids in lists.items():
        figures = [figure for image_id in spread(ids, each) for figure in _figures(dataset, part, image_id, palette)]
        if figures:
            yield f'<h3>{html.escape(part)}</h3><div class="pictures" style="grid-template-columns: repeat(4, 1fr)">'
            yield f"{''.join(figures)}</div>"


def _figures(dataset: Dataset, part: str, image_id: str, palette: np.ndarray) -> Iterator[str]:
    try:
        image = dataset.image(image_id)
        panels = {image_id: image}
        if part != "unlabelled":
            panels["labels"] = overlay(image, dataset.label(image_id), palette, 0.6)
    except UserError:
        return
    for text, picture in panels.items():
        address = jpeg_data_uri(picture, SAMPLE_WIDTH)
        yield f'<figure><img alt="{html.escape(text)}" src="{address}"><figcaption>{html.escape(text)}</figcaption></figure>'
