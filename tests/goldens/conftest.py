"""``--goldens DIR``, one test per golden file and framework, and the table of differences at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.goldens.golden import Check
from tests.goldens.kinds import cases

DEFAULT = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the folder that holds one folder of golden files per method."""
    parser.addoption(
        "--goldens", metavar="DIR", help="golden files are DIR/METHOD/* (default: the copies in tests/goldens)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test per file and framework, named ``METHOD/FILE[FRAMEWORK]``."""
    if "golden_case" in metafunc.fixturenames:
        folder = metafunc.config.getoption("goldens", None) or DEFAULT
        try:
            all_cases = cases(Path(folder))
        except FileNotFoundError as error:
            raise pytest.UsageError(str(error)) from None
        metafunc.parametrize("golden_case", [pytest.param(case, id=case.id, marks=case.marks) for case in all_cases])


def pytest_terminal_summary(terminalreporter) -> None:
    """Print every file's largest difference (in units of its gate) and quantity."""
    rows = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            properties = dict(report.user_properties)
            if report.when == "call" and "golden" in properties:
                rows.append(_row(properties["golden"], outcome, [Check(*c) for c in properties.get("checks", ())]))
    if rows:
        terminalreporter.section("golden files: quantity with the largest difference")
        width = max(len(row[0]) for row in rows)
        for name, text in sorted(rows):
            terminalreporter.write_line(f"{name:{width}}  {text}")


def _row(name: str, outcome: str, checks: list[Check]) -> tuple[str, str]:
    if not checks:
        return name, "FAILED without a comparison, see above"
    worst = max(checks, key=lambda check: (check.share, check.difference))
    number = f"{len(checks)} quantities" if len(checks) > 1 else "1 quantity"
    verdict = "ok" if outcome == "passed" else "FAILED"
    return name, f"{worst.difference:9.2e}  gate {worst.gate:.0e}  {verdict:6}  {worst.quantity} ({number})"
