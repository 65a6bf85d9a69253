"""What the pages name is there: files, links, modules."""

from __future__ import annotations

import importlib.util
import re

import pytest

from tests.places import PROJECT

PAGES = [PROJECT / "README.md", PROJECT / "mindspore_impl" / "EXCLUDED.md", *sorted((PROJECT / "docs").rglob("*.md"))]
EXAMPLES = {"configs/datasets/mydata.yaml"}
"""Files that a page tells its reader to make."""
FOLDERS = "common|torch_impl|mindspore_impl|onnx_impl|converters|experiments|benchmarks|configs|tests|docs|requirements"


def named_files(text: str) -> set[str]:
    """Paths of the project's own files that a page names; ``*_impl`` stands for both frameworks."""
    paths = set(re.findall(rf"(?<![\w/.-])(?:(?:{FOLDERS})|\*_impl)/[\w/.-]*\.(?:py|sh|yaml|md|txt)\b", text))
    return {path.replace("*_impl", package) for path in paths for package in ("torch_impl", "mindspore_impl")}


def named_by_code(text: str) -> set[str]:
    """Pages and the project's own modules that code or settings name; ``NAME`` in a path stands for any."""
    modules = {path for path in named_files(text) if path.endswith(".py") and "NAME" not in path}
    return modules | set(re.findall(r"(?<![\w/.-])[\w-]+/[\w/.-]+\.md\b", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_what_a_page_names_exists(page):
    text = page.read_text()
    missing = [path for path in named_files(text) if not (PROJECT / path).exists() and path not in EXAMPLES]
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing += [link for link in links if not (page.parent / link).exists()]
    modules = set(re.findall(rf"python -m ((?:{FOLDERS})[\w.]*)", text))
    missing += [module for module in sorted(modules) if importlib.util.find_spec(module) is None]
    assert missing == []


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS.split("|") if folder not in ("tests", "docs")])
def test_what_a_file_of_code_or_settings_names_exists(folder):
    """A docstring sends its reader to pages and modules that are here (authors' settings may be called as ours are)."""
    files = [path for ending in ("py", "yaml", "txt") for path in sorted((PROJECT / folder).rglob(f"*.{ending}"))]
    assert files
    named = {(file.relative_to(PROJECT).as_posix(), name) for file in files for name in named_by_code(file.read_text())}
    assert sorted((file, name) for file, name in named if not (PROJECT / name).exists()) == []


def test_a_wrong_name_is_found():
    assert named_files("see `common/no_such.py` and `*_impl/losses.py`") == {
        "common/no_such.py", "torch_impl/losses.py", "mindspore_impl/losses.py"
    }  # fmt: skip


def test_a_wrong_name_in_code_is_found():
    text = "see ``specs/u2pl.md``, ``common/methods/NAME.py``, configs/pascal.yaml and ``*_impl/losses.py``"
    assert named_by_code(text) == {"specs/u2pl.md", "torch_impl/losses.py", "mindspore_impl/losses.py"}


def test_the_readme_fits_two_screens():
    assert len((PROJECT / "README.md").read_text().splitlines()) < 120
