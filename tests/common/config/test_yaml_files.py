"""What YAML files hold that is no setting: references without end, tags, depth; each one line that names the file."""

from __future__ import annotations

import sys

import pytest

from common.config.yaml_files import MOST_ITEMS, parse_yaml
from common.errors import UserError

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))


@pytest.fixture
def usual_depth():
    """Python's own limit of recursion, which a library may have raised."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 1000, "nested too deeply"), (LAUGHS, f"more than {MOST_ITEMS} values"), ("&a [*a]", f"more than {MOST_ITEMS} values"),
        ("a: !!int x", "not valid YAML"), ("a: !!float x", "not valid YAML"), ("a: !!bool x", "not valid YAML"),
        ("a: !!timestamp x", "not valid YAML"), ("a: " + "1" * 5000, "not valid YAML"), ("? [a]\n: b", "unhashable"),
        ("a: !!python/object/apply:os.mkdir [canary]", "line 1: not valid YAML"), ("a: 1\na: 2", "line 2: not valid YAML"),
        ("a: \x00", "not valid YAML"),
    ],
)  # fmt: skip
def test_what_is_no_setting_is_one_line(text, message, usual_depth):
    with pytest.raises(UserError, match=message) as caught:
        parse_yaml(text, "file.yaml")
    assert str(caught.value).startswith("file.yaml") and "\n" not in str(caught.value)


def test_references_of_an_ordinary_file_are_followed():
    assert parse_yaml("a: &a [1, 2]\nb: {c: *a, d: *a}", "file.yaml") == {"a": [1, 2], "b": {"c": [1, 2], "d": [1, 2]}}
