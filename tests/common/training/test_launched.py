"""What a launch says and returns, by how its processes ended."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from common.training.launched import End, outcome

WELL = End(code=0, message="", lost=False, late=False, time=3.0)
STOPPED = End(code=130, message="stopped at iteration 4", lost=False, late=False, time=3.0)
FAILED = End(code=2, message="no such image", lost=False, late=False, time=2.0)
LOST = End(code=1, message="has lost the others", lost=True, late=False, time=1.0)
LATE = End(code=1, message="the others did not come", lost=True, late=True, time=1.0)


def launch_of(folder: Path, ends: list[End | None]) -> Path:
    """Write what so many processes leave; None: gone without a word."""
    for number, end in enumerate(ends):
        (folder / f"pid-{number}").write_text("1")
        if end is not None:
            (folder / f"end-{number}").write_text(json.dumps(asdict(end)))
    return folder


@pytest.mark.parametrize(
    ("ends", "launcher", "expected"),
    [
        ([WELL, WELL], 0, (0, 0, "")),
        ([WELL, WELL], 1, (0, 0, "")),  # all is written, only the launcher complains
        ([WELL, WELL], -15, (0, 0, "")),
        ([STOPPED, STOPPED], 1, (0, 130, STOPPED.message)),
        ([LOST, FAILED], 1, (1, 2, FAILED.message)),
        ([LATE, None], 1, (0, 1, LATE.message)),
        ([WELL, FAILED], 0, (1, 2, FAILED.message)),
    ],
)
def test_the_first_process_that_failed_by_itself_decides(ends, launcher, expected, tmp_path):
    assert outcome(launch_of(tmp_path, ends), launcher) == expected


@pytest.mark.parametrize("other", [WELL, LOST])
def test_a_process_that_is_gone_without_a_word_was_killed(other, tmp_path):
    number, code, message = outcome(launch_of(tmp_path, [other, None]), 1)
    assert (number, code) == (1, 137) and "process 1 of 2 was killed" in message


def test_the_first_that_is_gone_was_killed_and_the_launcher_killed_the_rest(tmp_path):
    assert outcome(launch_of(tmp_path, [None, None]), 137, gone=[1, 0])[0] == 1


def test_a_launcher_that_starts_nothing(tmp_path):
    assert outcome(tmp_path, 3) == (None, 3, "the launcher ended with code 3")
