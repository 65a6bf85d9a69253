"""What the tests of ``tests/parity/step_parity.py`` take from the class of a method."""

from __future__ import annotations

import pytest

from tests.parity.steps import in_mindspore


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave curves to the slow tests, but for those classes that say so."""
    for item in items:
        if "curve" in item.fixturenames and not item.cls.QUICK_CURVE:
            item.add_marker(pytest.mark.slow)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test per entry of the class's tables."""
    for argument, table in (("first_step", "FIRST_STEPS"), ("name", "METHODS")):
        if metafunc.cls and argument in metafunc.fixturenames:
            metafunc.parametrize(argument, getattr(metafunc.cls, table))
    if "broken" in metafunc.fixturenames:
        metafunc.parametrize("broken", metafunc.cls.BROKEN, ids=lambda function: function.__name__)


@pytest.fixture(scope="class")
def curve(request):
    """Return the losses of 20 steps in MindSpore, and the networks and the state after them."""
    tester = request.cls()
    method = in_mindspore(tester.CONFIG)
    return tester.run(method), method.networks(), method.state()
