"""The page of a campaign, made of its rows: tables of means, gains over the baseline, frameworks side by side, charts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from common.files import write_text_atomic
from common.paths import PROJECT
from common.reports.charts import available
from common.runtimes import FRAMEWORKS
from experiments.campaign import charts
from experiments.campaign.plan import Campaign, Run
from experiments.campaign.rows import Rows
from experiments.campaign.statistics import half_width, spread


@dataclass(frozen=True)
class Cell:
    """What is known of one method on one split in one framework: its ``runs``, and the ``rows`` of those that are finished."""

    split: str
    method: str
    framework: str
    runs: tuple[Run, ...]
    rows: tuple[Mapping[str, Any], ...]

    @property
    def scores(self) -> list[float]:
        """mIoU of each run's best evaluation, in percent."""
        return [row["miou"] for row in self.rows]

    @property
    def steps(self) -> set[int]:
        """Numbers of optimiser steps."""
        return {row["iterations"] for row in self.rows}


def write_page(file: Path, campaign: Campaign, runs: Sequence[Run], rows: Rows, command: str = "") -> None:
    """Write ``NAME.md`` beside the campaign's ``file`` and its charts into the folder of its rows.

    ``command`` is what makes the page (default: the campaign command with this file).
    """
    current = rows.current(list(runs))
    cells = cells_of(runs, current)
    command = command or f"python -m experiments.campaign {shown(file)}"
    parts = [
        f"# {campaign.title}",
        f"Made by `{command}` from the rows and logs in `{file.stem}/`; do not edit. {campaign.text}".strip(),
        f"{len(current)} of {len(runs)} runs are there{machines(current.values())}.",
    ]
    for split in dict.fromkeys(cell.split for cell in cells if cell.rows):
        parts += split_part(split, [cell for cell in cells if cell.split == split], campaign)
    if any(cell.rows for cell in cells):
        parts += chart_part(file, cells, rows)
    parts += published_part(cells, campaign)
    write_text_atomic(file.with_suffix(".md"), "\n\n".join(filter(None, parts)) + "\n")


def shown(file: Path) -> str:
    """Return how a campaign's file is called from the project's folder."""
    whole = file.resolve()
    return (whole.relative_to(PROJECT) if whole.is_relative_to(PROJECT) else file).as_posix()


def cells_of(runs: Sequence[Run], current: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    """Group runs and finished rows by split, method and framework, in the campaign's order."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.split, run.method, run.framework), []).append(run)
    return [
        Cell(*key, tuple(group), tuple(current[run.name] for run in group if run.name in current))
        for key, group in groups.items()
    ]


def machines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Say when and on which processors or devices the rows were made."""
    rows = list(rows)
    if not rows:
        return ""
    dates = sorted({row["date"] for row in rows})
    places = sorted(
        {f"{row['device'].replace('CPU', 'cpu')} ({row['processor']}, {row['threads']} thread(s))" for row in rows}
    )
    commits = sorted({row["commit"] for row in rows if row["commit"]})
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f" ({days}; {', '.join(places)}; commits {', '.join(commits) or 'unknown'})"


def split_part(split: str, cells: Sequence[Cell], campaign: Campaign) -> list[str]:
    """Return the table of one split: mean, spread, worst and best run, gain over the baseline at equal steps."""
    baselines = {cell.framework: cell for cell in cells if cell.method == campaign.baseline}
    lines = [
        "| method | framework | runs | mIoU | spread | worst | best | at the end | gain | 95 % interval | note |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in cells:
        head = [cell.method, FRAMEWORKS[cell.framework].title, f"{len(cell.rows)} of {len(cell.runs)}"]
        shown = figures(cell, baselines.get(cell.framework) or baselines.get("torch"))
        lines.append(f"| {' | '.join([*head, *astuple(shown)])} |")
    parts = [f"## {split}", "\n".join(lines)]
    pairs = frameworks_part(cells)
    return [*parts, pairs]


@dataclass(frozen=True)
class Figures:
    """What a table says of a cell, as text: mIoU and gain in percent, the ``gain`` over the baseline; dashes where no run is finished."""

    mean: str = "-"
    spread: str = "-"
    worst: str = "-"
    best: str = "-"
    last: str = "-"
    gain: str = "-"
    interval: str = "-"
    note: str = "not run"


def figures(cell: Cell, baseline: Cell | None) -> Figures:
    """Return the figures of a table row, those of the gain empty where there is nothing to compare with."""
    if not cell.rows:
        return Figures()
    scores = cell.scores
    last = statistics.mean(row["last_miou"] for row in cell.rows)
    deviation = f"{spread(scores):.2f}" if len(scores) > 1 else ""
    shown = [f"{statistics.mean(scores):.2f}", deviation]
    shown += [f"{value:.2f}" for value in (min(scores), max(scores), last)]
    if baseline is None or not baseline.rows or baseline.method == cell.method:
        return Figures(*shown, gain="", interval="", note="")
    gain, half = statistics.mean(scores) - statistics.mean(baseline.scores), half_width(scores, baseline.scores)
    interval = "" if half is None else f"{gain - half:+.2f} .. {gain + half:+.2f}"
    note = []
    if cell.steps != baseline.steps:
        note.append(
            f"{', '.join(map(str, sorted(cell.steps)))} steps, the baseline {', '.join(map(str, sorted(baseline.steps)))}"
        )
    if half is not None and gain - half <= 0:
        note.append("not shown to gain")
    return Figures(*shown, f"{gain:+.2f}", interval, "; ".join(note))


def frameworks_part(cells: Sequence[Cell]) -> str:
    """Return the table of the differences between the two frameworks, empty where no method ran in both."""
    by_method: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        by_method.setdefault(cell.method, {})[cell.framework] = cell
    lines = []
    for method, pair in by_method.items():
        if all(name in pair and pair[name].rows for name in FRAMEWORKS):
            torch, mindspore = (pair[name].scores for name in FRAMEWORKS)
            difference, half = statistics.mean(mindspore) - statistics.mean(torch), half_width(mindspore, torch)
            interval = "" if half is None else f"{difference - half:+.2f} .. {difference + half:+.2f}"
            holds = "" if half is None else "yes" if abs(difference) <= half else "no"
            lines.append(f"| {method} | {difference:+.2f} | {interval} | {holds} |")
    if not lines:
        return ""
    return "\n".join(
        ["| method | MindSpore - PyTorch | 95 % interval | holds 0 |", "| --- | --- | --- | --- |", *lines]
    )


def chart_part(file: Path, cells: Sequence[Cell], rows: Rows) -> list[str]:
    """Draw bars and curves beside the rows and return their place on the page; one line where nothing can be drawn."""
    folder = rows.folder
    if not available():
        return ["Charts need matplotlib: `pip install '.[charts]'`, then run the command with `--page`."]
    finished = [cell for cell in cells if cell.rows]
    names = [f"{cell.method}\n{cell.split}\n{FRAMEWORKS[cell.framework].title}" for cell in finished]
    curves = {
        f"{cell.method} {cell.split} {FRAMEWORKS[cell.framework].title}": [
            rows.evaluations(run) for run in cell.runs if finished_in(cell, run)
        ]
        for cell in finished
    }
    charts.bars(folder / "bars.svg", names, [cell.scores for cell in finished], "mIoU, %")
    charts.curves(folder / "curves.svg", curves, "optimiser steps", "mIoU, %")
    return [f"![mean and spread of every method]({file.stem}/bars.svg)", f"![mean curves]({file.stem}/curves.svg)"]


def finished_in(cell: Cell, run: Run) -> bool:
    """Whether ``run`` has a row in ``cell``."""
    return any(row["run"] == run.name for row in cell.rows)


def published_part(cells: Sequence[Cell], campaign: Campaign) -> list[str]:
    """Return the comparison with the scores that the authors publish, empty where none of these experiments has one."""
    lines = []
    for cell in cells:
        reference = cell.runs[0].config.reference
        if reference.published_miou is None:
            continue
        status = "not run here"
        if cell.rows:
            mean = statistics.mean(cell.scores)
            place = "within" if abs(mean - reference.published_miou) <= campaign.band else "outside of"
            status = f"{mean:.2f}: {place} {campaign.band:g}"
        loader = cell.runs[0].config.loader
        sources = dict.fromkeys(stream.source for stream in cell.runs[0].config.streams())
        batch = reference.total_batch or " + ".join(
            f"{getattr(loader, f'batch_{source}')} {source}" for source in sources
        )
        columns = [f"`{cell.runs[0].experiment}`", FRAMEWORKS[cell.framework].title, f"{reference.published_miou:.2f}"]
        lines.append(f"| {' | '.join([*columns, batch, reference.hardware, status])} |")
    if not lines:
        return []
    head = [
        "| experiment | framework | published mIoU | total batch | authors' hardware | here |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    return ["## Published scores", "\n".join([*head, *lines])]
