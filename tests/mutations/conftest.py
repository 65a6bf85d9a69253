"""The valid files, made once, and a copy of them for every test."""

from __future__ import annotations

import shutil
import tempfile

import pytest


@pytest.fixture(scope="session")
def valid(tmp_path_factory):
    """The folder that is copied for every mutation."""
    from tests.mutations.valid import build

    home = tmp_path_factory.mktemp("valid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("MPLCONFIGDIR", str(home.parent))
        patch.chdir(home)
        build(home)
    return home


@pytest.fixture
def home(valid, tmp_path, monkeypatch):
    """A copy of it, which is the home, the working folder and the place of temporary files."""
    copy = tmp_path / "home"
    shutil.copytree(valid, copy)
    (copy / "tmp").mkdir()
    monkeypatch.setenv("HOME", str(copy))
    monkeypatch.setenv("MPLCONFIGDIR", str(valid.parent))  # its list of fonts is made once, and is no command's file
    monkeypatch.chdir(copy)
    monkeypatch.setattr(tempfile, "tempdir", str(copy / "tmp"))
    return copy
