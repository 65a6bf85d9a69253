"""Progress on stderr, and the arguments that commands share."""

from __future__ import annotations

import argparse
import ast
import sys

import pytest

from common.command_line import experiment_arguments, number, positive, track
from tests.places import PROJECT


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


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (number(0, 1), "0.5", 0.5),
        (number(0, 1), "1", 1.0),
        (number(0), "1e9", 1e9),
        (number(0, kind=int), "0", 0),
        (positive, "3", 3),
    ],
)
def test_a_number_within_its_range_is_read(read, text, value):
    assert read(text) == value and type(read(text)) is type(value)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (number(0, 1), "1.01", "1.01 does not lie in 0..1"),
        (number(0, 1), "nan", "nan does not lie in 0..1"),
        (number(0), "-1", "-1 is not at least 0"),
        (number(0, kind=int), "1.5", "invalid whole number value: '1.5'"),
        (number(0, 1), "half", "invalid number value: 'half'"),
        (positive, "0", "0 is not at least 1"),
    ],
)
def test_a_number_outside_of_its_range_is_refused_in_one_line(read, text, message, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--value", type=read)
    with pytest.raises(SystemExit) as end:
        parser.parse_args([f"--value={text}"])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"argument --value: {message}")


def test_every_number_on_a_command_line_has_a_range():
    folders = ("common", "torch_impl", "mindspore_impl", "onnx_impl", "converters", "experiments", "benchmarks")
    files = [file for folder in folders for file in (PROJECT / folder).rglob("*.py")]
    unbounded = [
        f"{file.relative_to(PROJECT)}:{node.lineno}" for file in files for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.keyword) and node.arg == "type" and getattr(node.value, "id", "") in ("int", "float")
    ]  # fmt: skip
    assert len(files) > 100 and unbounded == []
