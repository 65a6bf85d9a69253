"""Strict construction: every mistake in a mapping is one line that names source, key and a way out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from common.config.strict import build, ranged, to_plain
from common.config.yaml_files import format_yaml, parse_yaml, read_yaml
from common.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Inner:
    kind: Literal["cat", "dog"] = "cat"
    share: float = ranged(0.5, low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    count: int = ranged(1, low=1)
    wanted: bool = False
    limit: int | None = ranged(None, low=2)
    sizes: tuple[int, ...] = ()
    pair: tuple[float, float] = ranged((0.0, 1.0), low=0.0)
    inner: Inner = Inner()
    table: dict[str, Inner] | None = None

    def __post_init__(self) -> None:
        if self.count == 13:
            raise ValueError("count 13 is unlucky")


SOURCES = {"": "base.yaml", "count": "top.yaml", "inner.kind": "inner.yaml"}


def test_values_are_converted_and_defaults_filled_in():
    built = build(
        Outer, {"name": "x", "sizes": [1, 2], "pair": [1, 2], "inner": {"share": 1}, "table": {"a": {}}}, SOURCES
    )
    assert built == Outer(name="x", sizes=(1, 2), pair=(1.0, 2.0), inner=Inner(share=1.0), table={"a": Inner()})
    assert isinstance(built.pair[0], float) and isinstance(built.inner.share, float)


def test_plain_form_builds_the_same_object():
    value = Outer(name="x", limit=3, sizes=(4,), inner=Inner(kind="dog"), table={"a": Inner(share=0.25)})
    assert build(Outer, parse_yaml(format_yaml(to_plain(value)), "text"), SOURCES) == value


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "base.yaml: name is missing and has no default"),
        ({"name": 3}, "base.yaml: name = 3 must be text"),
        ({"name": "x", "cuont": 3}, "unknown key 'cuont'; did you mean 'count'?"),
        ({"name": "x", "inner": {"knid": "dog"}}, "unknown key 'inner.knid'; did you mean 'kind'?"),
        ({"name": "x", "count": 0}, "top.yaml: count = 0 is out of range (1 ..)"),
        ({"name": "x", "count": 1.5}, "top.yaml: count = 1.5 must be an integer"),
        ({"name": "x", "count": True}, "top.yaml: count = True must be an integer"),
        ({"name": "x", "count": 13}, "count 13 is unlucky"),
        ({"name": "x", "wanted": 1}, "wanted = 1 must be true or false"),
        ({"name": "x", "limit": 1}, "limit = 1 is out of range (2 ..)"),
        ({"name": "x", "sizes": 3}, "sizes = 3 must be a list"),
        ({"name": "x", "sizes": [1, "b"]}, "sizes = 'b' must be an integer"),
        ({"name": "x", "pair": [1]}, "pair = [1] must be a list of 2"),
        ({"name": "x", "pair": [1, -2]}, "pair = -2.0 is out of range (0.0 ..)"),
        ({"name": "x", "inner": 3}, "inner must be a mapping, not 3"),
        (
            {"name": "x", "inner": {"kind": "dgo"}},
            "inner.yaml: inner.kind = 'dgo' is not one of cat, dog; did you mean 'dog'?",
        ),
        ({"name": "x", "inner": {"share": 1.1}}, "inner.share = 1.1 is out of range (0.0 .. 1.0)"),
        ({"name": "x", "table": {"a": {"share": 2}}}, "table.a.share = 2.0 is out of range (0.0 .. 1.0)"),
    ],
)
def test_a_mistake_is_one_line_with_source_and_key(values, message):
    with pytest.raises(UserError) as caught:
        build(Outer, values, SOURCES)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_yaml_scalars_are_what_they_look_like():
    text = "{a: 1e-4, b: 1_8, c: no, d: 012, e: 2020-01-01, f: .5, g: -3, h: ~, i: true, j: 1.0e+3, k: '7', l: .inf}"
    expected = {
        "a": 1e-4,
        "b": "1_8",
        "c": "no",
        "d": "012",
        "e": "2020-01-01",
        "f": 0.5,
        "g": -3,
        "h": None,
        "i": True,
    }
    assert parse_yaml(text, "text") == {**expected, "j": 1000.0, "k": "7", "l": float("inf")}


@pytest.mark.parametrize(
    "value", ["1e-4", "12", "", "null", "true", "012", "1_8", "a: b", 1e-12, 1e22, 0.1, [], {}, None, -7]
)
def test_yaml_text_reads_back_as_the_same_value(value):
    assert parse_yaml(format_yaml({"key": value}), "text") == {"key": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "file.yaml, line 3: not valid YAML: key 'a' is given twice"),
        ("a: {x: 1, x: 2}", "key 'x' is given twice"),
        ("a: [1", "file.yaml, line 1: not valid YAML"),
        ("a: !!python/name:os.system x", "file.yaml, line 1: not valid YAML"),
    ],
)
def test_broken_yaml_names_file_and_line(text, message):
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "file.yaml")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_unreadable_yaml_files_are_reported(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"a: \xff")
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(tmp_path / "bytes.yaml")
