"""Progress on stderr, and the arguments that commands share."""

from __future__ import annotations

import argparse
import sys

import pytest

from common.command_line import experiment_arguments, track


@pytest.mark.parametrize(
    ("count", "every", "shown"),
    [(3, 0, [1, 2, 3]), (25, 0, [*range(3, 25, 3), 25]), (25, 10, [10, 20]), (20, 10, [10, 20])],
)
def test_plain_lines_off_a_terminal(capsys, count, every, shown):
    items = track(iter(range(count)), "check", unit="file", total=count, plain="checked", every=every)
    assert list(items) == list(range(count))
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [f"checked {done} of {count} files" for done in shown] and captured.out == ""


def test_silence_where_no_plain_line_is_wanted(capsys):
    assert list(track("abc", "read")) == ["a", "b", "c"] and list(track((), "read", plain="read")) == []
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(track("abc", "read", plain="has read")) == ["a", "b", "c"]
    captured = capsys.readouterr()
    assert "read:" in captured.err and "has read" not in captured.err


def test_an_experiment_and_its_settings_stand_anywhere():
    parser = argparse.ArgumentParser()
    experiment_arguments(parser)
    parser.add_argument("--out")
    parsed = parser.parse_intermixed_args(["a/b/c", "x=1", "--out", "here", "y.z=2"])
    assert (parsed.experiment, parsed.overrides) == ("a/b/c", ["x=1", "y.z=2"])
    assert "DATASET/SPLIT/METHOD, e.g. camvid/1_8/u2pl" in parser.format_help()
