"""The small data set."""

from __future__ import annotations

import pytest

from tests.common.datasets.small import IMAGE, LABEL, save


@pytest.fixture
def root(tmp_path):
    for name in ("one", "two"):
        save(tmp_path / "images" / f"{name}.png", IMAGE)
        save(tmp_path / "labels" / f"{name}.png", LABEL)
    (tmp_path / "train.txt").write_text("one\n")
    (tmp_path / "val.txt").write_text("two\n")
    return tmp_path
