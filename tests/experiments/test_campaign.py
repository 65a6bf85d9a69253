"""A campaign runs what is missing, keeps one row and log per run, and its page follows from the rows alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from common.command_line import run_command
from common.config.yaml_files import read_yaml
from common.errors import UserError
from common.experiment import compose
from common.runs.run_folder import RunFolder
from experiments.campaign import rows as rows_module
from experiments.campaign.__main__ import main
from experiments.campaign.page import write_page
from experiments.campaign.parts import short_tables, write_parts
from experiments.campaign.plan import read_campaign, runs_of
from experiments.campaign.rows import Rows
from experiments.campaign.runner import Runner, command
from experiments.campaign.seconds import Seconds
from experiments.campaign.statistics import half_width
from experiments.page_part import part
from tests.places import PROJECT

TINY = "[trainer.epochs=2, trainer.iterations_per_epoch=2, trainer.evaluate_every=1]"


def campaign_file(folder: Path, groups: str, overrides: str = TINY) -> Path:
    path = folder / "trial.yaml"
    path.write_text(f"title: A trial\noverrides: {overrides}\ngroups:\n{groups}")
    return path


TWO_METHODS = "  - {experiments: [shapes/12/suponly, shapes/12/fixmatch], torch: [1, 2]}\n"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("  - {experiments: [shapes/12/suponli], torch: [1]}\n", "did you mean 'suponly'"),
        (
            "  - {experiments: [shapes/12/suponly], torch: [1, 1]}\n",
            "trial.yaml: the run torch-shapes-12-suponly-seed1 is named twice",
        ),
        ("  - {experiments: [shapes/12/suponly]}\n", "names no run; give a group experiments, and seeds"),
        ("  - {experiments: [shapes/12/suponly], pytorch: [1]}\n", "did you mean 'torch'"),
        ("  - {experiments: [shapes/12/suponly], torch: [1], page: docs/none.md}\n", "docs/none.md"),
        ("  - {experiments: [shapes/12/suponly], torch: [1], page: docs/parity.md}\n", "has no part"),
        ("  - {experiments: [shapes/12/suponly], torch: [1]}\nhours: -1\n", "hours = -1.0 is out of range"),
        ("  - {experiments: [shapes/12/suponly], torch: [1]}\nrows_of: [other]\n", "there is no other.yaml beside it"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path, groups, message, capsys):
    assert run_command(main, [str(campaign_file(tmp_path, groups))]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said


def test_runs_are_named_once_and_in_the_order_of_the_file(tmp_path):
    groups = (
        TWO_METHODS
        + "  - {experiments: [shapes/12/fixmatch], torch: [1], label: no mixing, overrides: [trainer.pictures=1]}\n"
    )
    runs = runs_of(read_campaign(campaign_file(tmp_path, groups)))
    names = [run.name for run in runs]
    assert names[:2] == ["torch-shapes-12-suponly-seed1", "torch-shapes-12-fixmatch-seed1"]
    assert names[-1] == "torch-shapes-12-fixmatch-no-mixing-seed1" and runs[-1].method == "fixmatch no mixing"
    assert [run.config.trainer.seed for run in runs] == [1, 1, 2, 2, 1]


@pytest.mark.parametrize(("only", "count"), [("shapes/12/suponly", 2), ("12-fixmatch-seed2", 1), ("torch", 4)])
def test_only_takes_parts_of_names_with_slashes_or_hyphens(only, count, tmp_path, capsys):
    file = campaign_file(tmp_path, TWO_METHODS)
    assert run_command(main, [str(file), "--list", "--only", only]) == 0
    assert f"0 of {count} runs are there" in capsys.readouterr().out


def test_the_recipe_of_every_run_is_read_once_to_see_what_is_missing(tmp_path, monkeypatch):
    file = campaign_file(tmp_path, TWO_METHODS)
    runs = runs_of(read_campaign(file))
    for run in runs:
        put_row(Rows(tmp_path / "trial"), run, 60.0)
    read = []
    monkeypatch.setattr(rows_module, "is_recipe_of", lambda path, run: read.append(run.name) or True)
    assert run_command(main, [str(file), "--list"]) == 0
    assert sorted(read) == sorted(run.name for run in runs)


def put_row(rows: Rows, run, miou: float, last: float | None = None, steps: int = 4, monkeypatch=None) -> None:
    """Keep a finished run with made-up scores."""
    folder = RunFolder(rows.folder / "runs" / run.name)
    folder.log(kind="evaluation", iteration=steps, epoch=1, miou=(miou if last is None else last) / 100, role="student")
    result = {
        "format": 1, "experiment": run.experiment, "miou": miou / 100, "miou_percent": miou, "images": 8, "role": "student",
        "iou": {"disc": miou / 100, "ring": None}, "pixels": {
            "disc": {"labelled": 40, "predicted": 50, "correct": 30}, "ring": {"labelled": 0, "predicted": 3, "correct": 0},
        }, "runtime": {"name": "torch", "version": "1", "device": "cpu"},
        "split": {"dataset": "shapes", "id": "12", "digest": "d"}, "checkpoint": {"sha256": "c"}, "protocol": {},
    }  # fmt: skip
    folder.result.write_text(json.dumps(result))
    rows.add(run, folder, 1, Seconds(rows.folder / "seconds.json", run, 10.0, 9.0))


def test_the_page_has_means_gains_and_intervals(tmp_path):
    file = campaign_file(tmp_path, TWO_METHODS)
    campaign, rows = read_campaign(file), Rows(tmp_path / "trial")
    runs = runs_of(campaign)
    for run, miou in zip(runs, (60.0, 70.0, 62.0, 71.0)):
        put_row(rows, run, miou)
    write_page(file, campaign, runs, rows)
    page = file.with_suffix(".md").read_text()
    assert "| suponly | PyTorch | 2 of 2 | 61.00 | 1.41 | 60.00 | 62.00 | 61.00 |" in page
    # Welch: variances 2 and 1/2 over 2 values each: sqrt(1.25) = 1.118, 1.47 degrees of freedom -> t(1) = 12.706.
    assert "| fixmatch | PyTorch | 2 of 2 | 70.50 | 0.71 | 70.00 | 71.00 | 70.50 | +9.50 | -4.71 .. +23.71 |" in page
    assert "not shown to gain" in page and "4 of 4 runs are there" in page
    assert f"`python -m experiments.campaign {file}`" in page


def test_a_row_says_which_classes_the_network_calls_too_often(tmp_path):
    rows = Rows(tmp_path / "trial")
    run = runs_of(read_campaign(campaign_file(tmp_path, TWO_METHODS)))[0]
    put_row(rows, run, 60.0)
    row = rows.all()[run.name]
    assert row["predicted"] == {"disc": 1.25, "ring": None} and row["iou"] == {"disc": 60.0, "ring": None}


@pytest.mark.parametrize("line", ["{", "3", "{}", '{"run": "a"}', "[" * 5000])
def test_a_damaged_row_or_log_is_named(tmp_path, line):
    file, rows = campaign_file(tmp_path, TWO_METHODS), Rows(tmp_path / "trial")
    run = runs_of(read_campaign(file))[0]
    put_row(rows, run, 60.0)
    assert rows.evaluations(run) == [(4, 0.6)]
    with open(rows.file, "a") as row, open(rows.logs / f"{run.name}.jsonl", "a") as log:
        row.write(f"{line}\n")
        log.write(f"{line}\n")
    with pytest.raises(UserError, match="rows.jsonl, line 2: not a row of a campaign"):
        rows.all()
    with pytest.raises(UserError, match=rf"{run.name}.jsonl is missing or damaged"):
        rows.evaluations(run)


def test_a_row_of_another_recipe_does_not_count(tmp_path):
    file, rows = campaign_file(tmp_path, TWO_METHODS), Rows(tmp_path / "trial")
    runs = runs_of(read_campaign(file))
    put_row(rows, runs[0], 60.0)
    assert list(rows.current(runs)) == [runs[0].name]
    other = runs_of(read_campaign(campaign_file(tmp_path, TWO_METHODS, TINY[:-1] + ", optimizer.lr=0.01]")))
    assert rows.current(other) == {}
    elsewhere = runs_of(read_campaign(campaign_file(tmp_path, TWO_METHODS, TINY[:-1] + ", trainer.threads=2]")))
    assert list(rows.current(elsewhere)) == [runs[0].name]


def test_rows_of_another_campaign_count_where_the_recipe_is_the_same(tmp_path):
    file = campaign_file(tmp_path, TWO_METHODS)
    runs = runs_of(read_campaign(file))
    for run in runs[:2]:
        put_row(Rows(tmp_path / "trial"), run, 60.0)
    other = tmp_path / "other.yaml"
    changed = TWO_METHODS.replace("]}", "], overrides: [optimizer.lr=0.01]}")
    text = f"title: Another\nrows_of: [trial]\noverrides: {TINY}\ngroups:\n"
    for groups, count in ((TWO_METHODS, 2), (changed, 0)):
        other.write_text(text + groups)
        campaign = read_campaign(other)
        rows, asked = Rows.of(other, campaign), runs_of(campaign)
        assert len(rows.current(asked)) == count
        assert not rows.file.exists()
    put_row(rows, asked[0], 70.0)
    assert rows.evaluations(asked[0]) == [(4, 0.7)] and Rows(tmp_path / "trial").evaluations(runs[0]) == [(4, 0.6)]
    other.write_text(text + TWO_METHODS)
    assert Rows.of(other, read_campaign(other)).evaluations(runs[0]) == [(4, 0.6)]


def test_a_page_of_a_method_shows_its_part_of_a_campaign(tmp_path):
    method_page = tmp_path / "method.md"
    method_page.write_text("Before\n<!-- campaign: written by this -->\nold\n<!-- end of campaign -->\nAfter\n")
    groups = "  - {experiments: [shapes/12/suponly], torch: [1]}\n"
    groups += f"  - {{experiments: [shapes/12/fixmatch], torch: [1, 2], page: {method_page}, label: alone}}\n"
    file = campaign_file(tmp_path, groups)
    campaign, rows = read_campaign(file), Rows(tmp_path / "trial")
    runs = runs_of(campaign)
    for run, miou in zip(runs, (60.0, 64.0, 66.0)):
        put_row(rows, run, miou)
    write_parts(campaign, runs, rows)
    text = method_page.read_text()
    assert text.startswith("Before\n") and text.endswith("\nAfter\n") and "old" not in text
    assert "| suponly | PyTorch | 1 | 60.00 |  |  |  |\n| fixmatch alone | PyTorch | 2 | 65.00 | 1.41 | +5.00 |" in text
    file.write_text(file.read_text().replace("overrides:", f"page: {tmp_path / 'overview.md'}\noverrides:", 1))
    overview = short_tables(read_campaign(file), runs, rows)[str(tmp_path / "overview.md")]
    assert overview.endswith(
        "| `suponly` | 60.00 (1) |  | - | - |\n| `fixmatch alone` | 65.00 ± 1.41 (2) | +5.00 | - | - |"
    )
    method_page.write_bytes(b"\xff")
    with pytest.raises(UserError, match="not a text in UTF-8"):
        write_parts(campaign, runs, rows)
    assert method_page.read_bytes() == b"\xff"
    method_page.write_text("no part")
    with pytest.raises(UserError, match="has no part"):
        write_parts(campaign, runs, rows)


def test_rows_of_several_days_add_up_and_the_newest_counts(tmp_path):
    file, rows = campaign_file(tmp_path, TWO_METHODS), Rows(tmp_path / "trial")
    runs = runs_of(read_campaign(file))
    put_row(rows, runs[0], 60.0)
    put_row(rows, runs[1], 70.0)
    put_row(rows, runs[0], 61.0)
    assert {name: row["miou"] for name, row in rows.current(runs).items()} == {runs[0].name: 61.0, runs[1].name: 70.0}


def test_different_steps_are_said(tmp_path):
    file = campaign_file(tmp_path, TWO_METHODS)
    campaign, rows = read_campaign(file), Rows(tmp_path / "trial")
    runs = runs_of(campaign)
    put_row(rows, runs[0], 60.0)
    put_row(rows, runs[1], 70.0, steps=8)
    write_page(file, campaign, runs, rows)
    assert "8 steps, the baseline 4" in file.with_suffix(".md").read_text()


def test_the_interval_is_welchs():
    stats = pytest.importorskip("scipy.stats")
    first, second = [70.0, 71.5, 69.0, 74.0, 72.0], [66.0, 66.9, 67.1]
    interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    # The degrees of freedom are rounded down, which widens the interval a little.
    assert (interval.high - interval.low) / 2 <= half_width(first, second) <= 1.1 * (interval.high - interval.low) / 2
    assert half_width(first, second[:1]) is None and half_width([1.0, 1.0], [2.0, 2.0]) == 0


def test_runs_train_stop_and_continue(tmp_path, capsys):
    pytest.importorskip("torch")
    file = campaign_file(tmp_path, "  - {experiments: [shapes/12/suponly], torch: [1]}\n")
    assert run_command(main, [str(file), "--work", str(tmp_path / "work")]) == 0
    (row,) = map(json.loads, (tmp_path / "trial" / "rows.jsonl").read_text().splitlines())
    assert row["seconds"] > 0 and row["cpu_seconds"] > 0
    assert row["iterations"] == 4 and row["images_seen"] == 4 * 8 and row["device"] == "cpu" and row["threads"] == 1
    assert len(row["recipe_digest"]) == 64 and row["miou"] >= row["last_miou"]
    capsys.readouterr()
    assert run_command(main, [str(file), "--work", str(tmp_path / "work")]) == 0
    assert "1 of 1 runs are there, 0 to do" in capsys.readouterr().out
    run = runs_of(read_campaign(file))[0]
    folder = RunFolder(tmp_path / "work" / run.name)
    assert command(run, folder, "cpu", 1)[-1] == "--resume"
    assert command(run, RunFolder(tmp_path / "elsewhere"), "cpu", 1)[-1] == "--overwrite"


def test_seconds_add_up_over_the_calls_that_work_on_a_run(tmp_path):
    first, other = runs_of(read_campaign(campaign_file(tmp_path, TWO_METHODS)))[:2]

    def call(run, fresh: bool, wall: float = 0.0, cpu: float | None = 0.0, killed: bool = False) -> tuple:
        taken = Seconds(tmp_path / "seconds.json", run)
        taken.start(fresh)
        if not killed:
            taken.end(wall, cpu)
        return taken.wall, taken.cpu

    assert call(first, True, 10.0, 9.0) == (10.0, 9.0)
    assert call(first, False, 5.0, 4.0) == (15.0, 13.0)
    assert call(first, False, 1.0, None) == (16.0, None)  # other trainings went beside it
    assert call(other, False, 1.0, 1.0) == (None, None)  # what is kept is of another run
    assert call(first, True, 2.0, 2.0) == (2.0, 2.0)
    call(first, False, killed=True)
    assert call(first, False, 3.0, 3.0) == (None, None)  # nobody knows what the killed call took
    (tmp_path / "seconds.json").write_text("{")
    assert call(first, False, 3.0, 3.0) == (None, None)


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    file = campaign_file(tmp_path, TWO_METHODS)

    def commands(run, *_):
        return ["false"] if run.seed == 1 else ["true"]

    monkeypatch.setattr("experiments.campaign.runner.command", commands)
    monkeypatch.setattr(rows_module.Rows, "add", lambda self, run, *_: {"miou": 1.0, "last_miou": 1.0})
    assert run_command(main, [str(file), "--work", str(tmp_path / "work")]) == 1
    said = capsys.readouterr()
    assert said.out.count("failed with exit code 1") == 2 and said.out.count("mIoU 1.00") == 2
    assert "2 of 4 runs failed" in said.err


def test_no_run_begins_after_the_time_is_up(tmp_path):
    runner = Runner(Rows(tmp_path / "trial"), tmp_path / "work", ["cpu"], seconds=0.0)
    runner.run(runs_of(read_campaign(campaign_file(tmp_path, TWO_METHODS))))
    assert not list((tmp_path / "work").glob("*")) and runner.failed == []


@pytest.mark.parametrize(
    ("line", "options"), [("", ["--hours", "0"]), ("hours: 0\n", []), ("hours: 9\n", ["--hours", "0"])]
)
def test_no_time_at_all_begins_no_run(line, options, tmp_path, capsys):
    file = campaign_file(tmp_path, TWO_METHODS + line)
    assert run_command(main, [str(file), *options, "--work", str(tmp_path / "work")]) == 0
    assert "0 of 4 runs are there, 4 to do" in capsys.readouterr().out and not (tmp_path / "work").exists()


def test_where_nothing_can_be_kept_no_training_begins(tmp_path, capsys):
    file = campaign_file(tmp_path, TWO_METHODS)
    file.with_suffix("").write_text("a file where the rows' folder would be")
    assert run_command(main, [str(file), "--work", str(tmp_path / "work")]) == 2
    assert str(file.with_suffix("")) in capsys.readouterr().err and not (tmp_path / "work").exists()


@pytest.mark.parametrize("file", sorted((PROJECT / "results").glob("*.yaml")), ids=lambda file: file.stem)
def test_pages_in_the_repository_are_made_of_their_rows(file, tmp_path):
    campaign = read_campaign(file)
    runs, rows = runs_of(campaign), Rows.of(file, campaign)
    page, again = file.with_suffix(".md"), f"run python -m experiments.campaign {file} --page"
    assert page.exists() or not rows.all()
    if page.exists():
        copy = Rows(tmp_path / file.stem, rows.others)
        if rows.folder.is_dir():
            shutil.copytree(rows.folder, copy.folder)
        write_page(tmp_path / file.name, campaign, runs, copy, f"python -m experiments.campaign results/{file.name}")
        assert (tmp_path / page.name).read_text() == page.read_text(), again
    for name, table in short_tables(campaign, runs, rows).items():
        assert part(PROJECT / name, "campaign") == table, again


def test_every_published_row_is_in_the_list():
    listed = {run.experiment for run in runs_of(read_campaign(PROJECT / "results" / "published.yaml"))}
    names = [path.stem for path in (PROJECT / "configs" / "methods").glob("*.yaml")]
    published = set()
    for dataset in ("voc", "cityscapes"):
        for name in names:
            lists = read_yaml(PROJECT / "configs" / "methods" / f"{name}.yaml").get("split_lists") or {}
            experiments = [f"{dataset}/{split}/{name}" for split in lists.get(dataset) or {}]
            published |= {one for one in experiments if compose(one).reference.published_miou is not None}
    assert published <= listed and listed <= published


def test_a_row_names_the_commit_and_says_when_the_code_differs_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "PROJECT", tmp_path)
    assert rows_module.commit() == ""  # not a checkout

    def git(*words: str) -> None:
        author = ["-c", "user.name=A", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *author, *words], check=True, capture_output=True)

    (tmp_path / "results").mkdir()
    for name in ("train.py", "README.md", "results/rows.jsonl"):
        (tmp_path / name).write_text("one\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    clean = rows_module.commit()
    assert len(clean) == 10
    for name in ("README.md", "results/rows.jsonl"):
        (tmp_path / name).write_text("written by a campaign\n")
    assert rows_module.commit() == clean
    (tmp_path / "train.py").write_text("two\n")
    assert rows_module.commit() == f"{clean}+"
