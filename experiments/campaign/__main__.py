"""``python -m experiments.campaign results/shapes.yaml``: run what is missing, write rows, logs and the page."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.command_line import number, positive, run_command, user_path
from common.errors import CheckFailed, UserError
from common.paths import PROJECT
from common.runtimes import FRAMEWORKS
from experiments.campaign.page import write_page
from experiments.campaign.parts import check_pages, write_parts
from experiments.campaign.plan import Campaign, Run, read_campaign, runs_of
from experiments.campaign.rows import Rows
from experiments.campaign.runner import Runner, say


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    file = options.campaign
    campaign = read_campaign(file)
    rows = Rows.of(file, campaign)
    runs = _runs(file, campaign)
    check_pages(campaign, runs)
    chosen = [run for run in runs if _is_chosen(run, options)]
    if not chosen:
        raise UserError(
            f"{file}: none of its {len(runs)} runs fits --only and --frameworks; --list alone names what is missing"
        )
    finished = rows.current(chosen)
    missing = [run for run in chosen if run.name not in finished]
    say(f"{campaign.title}: {len(chosen) - len(missing)} of {len(chosen)} runs are there, {len(missing)} to do")
    if options.list:
        for run in missing:
            say(f"  {run.name}")
        return
    failed: list[str] = []
    try:
        if not options.page:
            work = options.work or PROJECT / "runs" / "campaigns" / file.stem
            hours = campaign.hours if options.hours is None else options.hours
            seconds = None if hours is None else hours * 3600
            runner = Runner(rows, work, options.devices or ["cpu"] * options.jobs, options.threads, seconds, failed)
            runner.run(missing)
    finally:
        write_page(file, campaign, runs, rows)
        write_parts(campaign, runs, rows)
    say(f"page: {file.with_suffix('.md')}")
    if failed:
        raise CheckFailed(f"{len(failed)} of {len(missing)} runs failed: {', '.join(failed)}")


def _runs(file: Path, campaign: Campaign) -> list[Run]:
    try:
        runs = runs_of(campaign)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    if not runs:
        raise UserError(f"{file}: names no run; give a group experiments, and seeds as torch: [1] or mindspore: [1]")
    return runs


def _is_chosen(run: Run, options: argparse.Namespace) -> bool:
    parts = [part.replace("/", "-") for part in options.only]
    return run.framework in options.frameworks and (not parts or any(part in run.name for part in parts))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.campaign", description=__doc__.splitlines()[0])
    parser.add_argument("campaign", type=user_path, metavar="FILE.yaml", help="which runs, e.g. results/shapes.yaml")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="only runs with one of these in their name, e.g. shapes/12/u2pl",
    )
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS), help="default: both")
    parser.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="trainings at once on the CPU (default: 1)"
    )
    parser.add_argument(
        "--devices", nargs="+", metavar="DEVICE", help="one training at a time on each, e.g. cuda:0 cuda:1"
    )
    parser.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="threads of each training (default: 1)"
    )
    parser.add_argument(
        "--hours",
        type=number(0),
        help="after so long trainings are saved and stop; the next call continues (default: the file's hours)",
    )
    parser.add_argument("--work", type=user_path, metavar="DIR", help="run folders (default: runs/campaigns/NAME)")
    parser.add_argument("--list", action="store_true", help="only name the runs that are missing")
    parser.add_argument("--page", action="store_true", help="only write the page anew")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
