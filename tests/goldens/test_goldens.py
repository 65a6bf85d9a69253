"""Every golden file in every framework: ``python -m pytest tests/goldens --goldens DIR -k METHOD``."""

from __future__ import annotations

import pytest

from tests.goldens.frameworks import FRAMEWORKS, installed
from tests.goldens.golden import Check, table
from tests.goldens.kinds import Case


def plain(check: Check) -> tuple:
    """Return a check's fields as values of Python."""
    return tuple(value.item() if hasattr(value, "item") else value for value in check)


def test_golden(golden_case: Case, record_property) -> None:
    """All quantities of one file lie within their gates."""
    record_property("golden", golden_case.id)
    if golden_case.kind is None:
        pytest.fail(f"unknown kind: no entry of kinds_{golden_case.method}.py fits {golden_case.path}", pytrace=False)
    if golden_case.kind.pending:
        pytest.skip(golden_case.kind.pending)
    if golden_case.framework in FRAMEWORKS and not installed(golden_case.framework):
        pytest.skip(f"{golden_case.framework} is not installed")
    checks = golden_case.run()
    # Plain values: the processes of a distributed run hand them on.
    record_property("checks", [plain(check) for check in checks])
    if not checks or not all(check.passed for check in checks):
        pytest.fail(f"{golden_case.path}\n{table(checks) or 'nothing was compared'}", pytrace=False)
