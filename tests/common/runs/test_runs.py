"""The run folder: what is written where, and what a new start and a resumed run do with what is there."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest

from common.errors import UserError
from common.paths import PROJECT
from common.runs.run_folder import RunFolder, default_run_folder


@pytest.fixture
def folder(tmp_path, monkeypatch) -> RunFolder:
    """A run folder without TensorBoard, whether that is installed or not."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    return RunFolder(tmp_path / "runs" / "one")


def test_nothing_is_created_before_it_is_needed(folder):
    assert not folder.path.exists()
    assert folder.entries() == []


def test_start_writes_the_configuration_and_removes_an_earlier_run(folder):
    folder.start("a: 1\n")
    folder.log(kind="train", iteration=1)
    folder.pictures.mkdir()
    files = [folder.last(".pth"), folder.last(".ckpt"), folder.best(".pth"), folder.result, folder.pictures / "x.png"]
    for file in [*files, folder.path / "notes.txt"]:
        file.write_text("old")
    folder.start("a: 2\n")
    assert folder.config.read_text() == "a: 2\n"
    assert not any(file.exists() for file in [*files, folder.log_file])
    assert (folder.path / "notes.txt").exists()


def test_every_entry_is_one_line_of_json(folder):
    folder.log(kind="train", iteration=1, losses={"sup": np.float32(0.5), "unsup": math.nan}, text="a\nb")
    folder.log(kind="evaluation", iteration=np.int64(2), miou=0.25, classes=(1, 2), path=folder.path)
    lines = folder.log_file.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"kind": "train", "iteration": 1, "losses": {"sup": 0.5, "unsup": None}, "text": "a\nb"},
        {"kind": "evaluation", "iteration": 2, "miou": 0.25, "classes": [1, 2], "path": str(folder.path)},
    ]
    assert folder.entries() == [json.loads(line) for line in lines]


def test_a_resumed_run_drops_what_it_goes_through_again(folder):
    folder.log(kind="note")
    for iteration in range(1, 6):
        folder.log(iteration=iteration)
    folder.truncate_after(3)
    assert [entry.get("iteration") for entry in folder.entries()] == [None, 1, 2, 3]
    folder.log(iteration=4)
    assert [entry.get("iteration") for entry in folder.entries()] == [None, 1, 2, 3, 4]


def test_a_line_cut_off_by_a_crash_is_dropped_but_damage_inside_is_reported(folder):
    folder.log(iteration=1)
    with open(folder.log_file, "a") as file:
        file.write('{"iteration": 2, "lo')
    assert folder.entries() == [{"iteration": 1}]
    folder.truncate_after(5)
    folder.log(iteration=2)
    assert folder.entries() == [{"iteration": 1}, {"iteration": 2}]
    for line in ('{"iteration"', "3", '{"iteration": "1"}', '{"iteration": null}', "[" * 5000):
        folder.log_file.write_text(f'{line}\n{{"iteration": 2}}\n')
        with pytest.raises(UserError, match="log.jsonl, line 1"):
            folder.entries()


def test_default_run_folder():
    assert default_run_folder("torch", "camvid/1_8/u2pl") == PROJECT / "runs" / "torch" / "camvid_1_8_u2pl"


def test_scalars_go_to_tensorboard_where_it_is_installed(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (extra tb)")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    folder = RunFolder(tmp_path)
    folder.log(kind="train", iteration=7, losses={"sup": 0.5}, done=True)
    (events,) = folder.events.glob("events.out.tfevents.*")
    scalars = [
        (event.step, value.tag, value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value)
        for event in EventFileLoader(str(events)).Load()
        for value in event.summary.value
    ]
    assert scalars == [(7, "losses/sup", 0.5)]
