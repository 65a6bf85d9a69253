"""Unknown files and methods fail, wrong folders are errors, and comparisons compare."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.goldens.golden import Check, close, exact
from tests.goldens.kinds import Case, Kind, cases
from tests.goldens.test_goldens import test_golden as check_golden
from tests.places import PROJECT as ROOT

FILES = Path(__file__).parent / "u2pl"


def run_pytest(folder: Path, method: str) -> subprocess.CompletedProcess:
    """Run the golden tests of ``folder`` in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/goldens/test_goldens.py"]
    return subprocess.run([*command, "--goldens", folder, "-k", method], cwd=ROOT, capture_output=True, text=True)


def test_a_file_of_an_unknown_kind_fails(tmp_path) -> None:
    """It stands beside a known kind under another suffix and a description."""
    folder = tmp_path / "u2pl"
    folder.mkdir()
    (folder / "metric_hidden.npz").write_bytes((FILES / "metric_a.npz").read_bytes())
    (folder / "README.md").write_text("not a golden file")
    assert run_pytest(tmp_path, "u2pl").returncode == 0
    np.savez(folder / "new_loss_a.npz", a=1)
    outcome = run_pytest(tmp_path, "u2pl")
    assert outcome.returncode == 1
    assert "1 failed, 1 passed" in outcome.stdout
    assert "unknown kind" in outcome.stdout and "new_loss_a" in outcome.stdout


def test_a_pending_kind_is_skipped_with_its_reason() -> None:
    """A kind whose method is not there yet neither fails nor passes."""
    case = Case("u2pl", FILES / "metric_a.npz", Kind(pending="the method is not there yet"), "torch")
    with pytest.raises(pytest.skip.Exception, match="not there yet"):
        check_golden(case, lambda *_: None)


def test_make_test_runs_every_small_kind_in_every_framework() -> None:
    """Of the golden files left to the slow tests each is deep, or MindSpore's and not the first of its kind."""
    all_cases = cases(FILES.parent)
    quick = [case for case in all_cases if pytest.mark.slow not in case.marks]
    small = {(case.method, id(case.kind), case.framework) for case in all_cases if not case.kind.deep}
    assert small == {(case.method, id(case.kind), case.framework) for case in quick}
    assert all(case in quick for case in all_cases if not case.kind.deep and case.framework != "mindspore")


def test_a_method_without_kinds_fails(tmp_path) -> None:
    """Every file of a folder that has no table of kinds fails."""
    folder = tmp_path / "nonesuch"
    folder.mkdir()
    np.savez(folder / "metric_a.npz", a=1)
    np.savez(folder / "metric_b.npz", a=1)
    outcome = run_pytest(tmp_path, "nonesuch")
    assert outcome.returncode == 1
    assert "2 failed" in outcome.stdout and "unknown kind" in outcome.stdout


def test_a_folder_without_goldens_is_an_error(tmp_path) -> None:
    """A wrong path does not pass silently."""
    outcome = run_pytest(tmp_path / "wrong", "u2pl")
    assert outcome.returncode not in (0, 1)
    assert "holds no folder of golden files" in outcome.stdout + outcome.stderr


def test_comparisons() -> None:
    """NaN and another shape never agree; the difference is relative to the largest golden entry."""
    assert not close("x", [np.nan], [0.0]).passed
    assert not close("x", [1.0, 1.0], [1.0]).passed
    assert not exact("x", [1, 1], [1]).passed
    assert close("x", [10.0, 1.0], [10.0, 2.0]).difference == pytest.approx(0.1)
    assert exact("x", [1, 2, 3], [1, 0, 0]) == Check("x", 2.0, 0.0)
