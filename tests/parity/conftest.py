"""Every parity test runs in a folder of its own, because a failed compilation leaves files in the current one."""

import pytest

import mindspore_impl  # noqa: F401  (before any test file imports MindSpore: it sets how much that prints)


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    """Change to a temporary folder."""
    monkeypatch.chdir(tmp_path)
