"""Short tables of a campaign in pages of the project: the README, a method's page."""

from __future__ import annotations

from collections.abc import Sequence

from common.paths import PROJECT
from common.runtimes import FRAMEWORKS
from experiments.campaign.page import Cell, cells_of, figures
from experiments.campaign.plan import Campaign, Run
from experiments.campaign.rows import Rows
from experiments.page_part import part, put


def write_parts(campaign: Campaign, runs: Sequence[Run], rows: Rows) -> None:
    """Write the part "campaign" of every page that the campaign and its groups name."""
    for name, table in short_tables(campaign, runs, rows).items():
        put(PROJECT / name, "campaign", table)


def check_pages(campaign: Campaign, runs: Sequence[Run]) -> None:
    """Raise :class:`UserError` for a page that is named but is not there or has no part "campaign"."""
    for name in {campaign.page, *(run.page for run in runs)} - {""}:
        part(PROJECT / name, "campaign")


def short_tables(campaign: Campaign, runs: Sequence[Run], rows: Rows) -> dict[str, str]:
    """Return the table of every page that is named: for a group's the group and the baseline, for the campaign's an overview."""
    cells = cells_of(runs, rows.current(list(runs)))
    pages = dict.fromkeys(run.page for run in runs if run.page)
    tables = {
        page: short_table([cell for cell in cells if cell.runs[0].page == page], cells, campaign) for page in pages
    }
    return tables | ({campaign.page: overview(cells, campaign)} if campaign.page else {})


def overview(cells: Sequence[Cell], campaign: Campaign) -> str:
    """Return mean, spread, runs and gain of the first split's methods, the frameworks side by side."""
    titles = [runtime.title for runtime in FRAMEWORKS.values()]
    lines = [f"| {cells[0].split} |" + "".join(f" {title} | gain |" for title in titles), "| --- |" + " --- |" * 4]
    first = {(cell.method, cell.framework): cell for cell in cells if cell.split == cells[0].split}
    for method in dict.fromkeys(method for method, _ in first):
        line = f"| `{method}` |"
        for framework in FRAMEWORKS:
            cell = first.get((method, framework))
            if cell and cell.rows:
                shown = figures(cell, first.get((campaign.baseline, framework)))
                several = f" ± {shown.spread}" if shown.spread else ""
                line += f" {shown.mean}{several} ({len(cell.rows)}) | {shown.gain} |"
            else:
                line += " - | - |"
        lines.append(line)
    return "\n".join(lines)


def short_table(shown: Sequence[Cell], cells: Sequence[Cell], campaign: Campaign) -> str:
    """Return mean, spread and gain of the cells ``shown``, the baseline among all ``cells`` first."""
    baselines = [cell for cell in cells if cell.method == campaign.baseline and cell not in shown]
    lines = [
        "| | framework | runs | mIoU | spread | gain | 95 % interval |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in [*baselines, *shown]:
        baseline = next((other for other in baselines if other.framework == cell.framework), None)
        of = figures(cell, baseline)
        row = [of.mean, of.spread, of.gain, of.interval]
        lines.append(f"| {cell.method} | {FRAMEWORKS[cell.framework].title} | {len(cell.rows)} | {' | '.join(row)} |")
    return "\n".join(lines)
