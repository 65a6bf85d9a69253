"""Finished runs: one row each in ``results/NAME/rows.jsonl``, and its compact log beside it.

Rows made on several days and machines add up: a row counts as long as the recipe it was trained with, which its log keeps,
is the one that the campaign's file asks for today.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.evaluation.results import read_result
from common.experiment import dump, load
from common.files import parse_json, read_bytes, write_text_atomic
from common.machine import describe
from common.paths import PROJECT
from common.runs.run_folder import RunFolder
from experiments.campaign.plan import Campaign, Run, digest, recipe
from experiments.campaign.seconds import Seconds

SHOWN = {
    "run": (str,), "miou": (int, float), "last_miou": (int, float), "iterations": (int,), "threads": (int,), "device": (str,),
    "processor": (str,), "date": (str,), "commit": (str,),
}  # fmt: skip
"""Entries of a row that the page shows, and the types that each may have."""


class Rows:
    """The rows and logs of one campaign in ``folder``, and those of ``others``, which are only read."""

    def __init__(self, folder: Path, others: Sequence[Rows] = ()) -> None:
        self.folder, self.file, self.logs, self.others = folder, folder / "rows.jsonl", folder / "logs", others

    @classmethod
    def of(cls, file: Path, campaign: Campaign) -> Rows:
        """The rows beside the campaign's ``file``, and those of the campaigns that it names; :class:`UserError` where there is none."""
        for name in campaign.rows_of:
            if not (file.parent / f"{name}.yaml").is_file():
                raise UserError(f"{file}: rows_of names {name!r}, but there is no {name}.yaml beside it")
        return cls(file.with_suffix(""), [cls(file.parent / name) for name in campaign.rows_of])

    def all(self) -> dict[str, dict[str, Any]]:
        """Return the newest row of every run by its name; raises :class:`UserError` for a damaged line."""
        rows = {}
        for number, line in enumerate(read_bytes(self.file).splitlines() if self.file.is_file() else (), 1):
            try:
                row = parse_json(line)
                whole = all(type(row[name]) in kinds for name, kinds in SHOWN.items())
            except (ValueError, KeyError, TypeError):
                whole = False
            if not whole:
                raise UserError(f"{self.file}, line {number}: not a row of a campaign; remove the line")
            rows[row["run"]] = row
        return rows

    def current(self, runs: list[Run]) -> dict[str, dict[str, Any]]:
        """Return the rows of those ``runs`` that were trained with exactly today's recipe."""
        current: dict[str, dict[str, Any]] = {}
        for source in (self, *self.others):
            rows = source.all()
            current |= {
                run.name: rows[run.name]
                for run in runs
                if run.name not in current and run.name in rows and source.holds(run)
            }
        return current

    def holds(self, run: Run) -> bool:
        """Whether the log of ``run`` here is of the recipe that it asks for today."""
        return is_recipe_of(self.logs / f"{run.name}.yaml", run)

    def make_folder(self) -> None:
        """Make the folder of rows and logs."""
        self.logs.mkdir(parents=True, exist_ok=True)

    def add(self, run: Run, folder: RunFolder, threads: int, taken: Seconds) -> dict[str, Any]:
        """Keep a finished run: its log, its recipe and its row, the row last."""
        row = row_of(run, folder, threads, taken)
        self.make_folder()
        write_text_atomic(self.logs / f"{run.name}.yaml", dump(run.config))
        write_text_atomic(self.logs / f"{run.name}.jsonl", "".join(map(_line, folder.entries())))
        with open(self.file, "a", encoding="utf-8") as file:  # appended, so that two campaigns at once lose nothing
            file.write(_line(row))
        return row

    def evaluations(self, run: Run) -> list[tuple[int, float]]:
        """Return iteration and mIoU (a fraction) of every evaluation in a run's log."""
        source = next((rows for rows in (self, *self.others) if rows.holds(run)), self)
        file = source.logs / f"{run.name}.jsonl"
        try:
            entries = [
                entry for entry in map(parse_json, read_bytes(file).splitlines()) if entry["kind"] == "evaluation"
            ]
            return [(int(entry["iteration"]), float(entry["miou"])) for entry in entries]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is missing or damaged ({error}); train {run.name} again") from None


def is_recipe_of(file: Path, run: Run) -> bool:
    """Whether the configuration in ``file`` computes what ``run`` asks for today; False where there is none."""
    try:
        return file.is_file() and recipe(load(file)) == recipe(run.config)
    except UserError:  # a key that no longer exists: another recipe
        return False


def row_of(run: Run, folder: RunFolder, threads: int, taken: Seconds) -> dict[str, Any]:
    """Return the row of a finished run: scores in percent, what was trained, where, when and from which state of the code.

    ``predicted``: of every class, how many times as many pixels as are labelled so the best network calls so.
    """
    result = read_result(folder.result)
    evaluations = [entry for entry in folder.entries() if entry.get("kind") == "evaluation"]
    best = max(evaluations, key=lambda entry: entry["miou"])
    steps, machine = evaluations[-1]["iteration"], describe()
    streams = run.config.streams()
    images = sum(getattr(run.config.loader, f"batch_{stream.source}") // stream.one_of for stream in streams)
    return {
        "run": run.name,
        "experiment": run.experiment,
        "method": run.method,
        "framework": run.framework,
        "seed": run.seed,
        "settings": list(run.settings),
        "miou": result["miou_percent"],
        "best_iteration": best["iteration"],
        "last_miou": round(100 * evaluations[-1]["miou"], 3),
        "iou": {name: None if value is None else round(100 * value, 2) for name, value in result["iou"].items()},
        "predicted": {
            name: round(pixels["predicted"] / pixels["labelled"], 2) if pixels["labelled"] else None
            for name, pixels in result["pixels"].items()
        },
        "iterations": steps,
        "images_seen": steps * images,
        "seconds": None if taken.wall is None else round(taken.wall),
        "cpu_seconds": None if taken.cpu is None else round(taken.cpu),
        "threads": threads,
        "device": result["runtime"]["device"],
        "split_digest": result["split"]["digest"],
        "recipe_digest": digest(recipe(run.config)),
        "checkpoint_digest": result["checkpoint"]["sha256"],
        "commit": commit(),
        **machine,
    }


def commit() -> str:
    """The state of the code: the commit's first digits, ``+`` where code or settings differ from it, empty outside of a checkout."""
    git = ["git", "-C", str(PROJECT)]
    head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return ""
    written = [":!results", ":!docs", ":!*.md"]  # rows and pages, by the campaign itself
    same = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ".", *written])
    return head.stdout.strip() + ("+" if same.returncode else "")


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False, separators=(", ", ": ")) + "\n"
