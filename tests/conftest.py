"""How the tests run: one thread per process, files shared out to workers, memory that goes back after each.

A test of the markers ``mindspore``, ``onnx`` and ``deep`` compiles a graph, exports a model or runs a network of a paper's depth;
``slow`` ones are left to ``make test-slow``.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest

from tests.networks import NETWORKS

# Before any of these libraries is loaded, and for every process that a test starts: networks of 33 x 33 pixels gain nothing
# from a second thread, and threads that wait for one another take the processor from other processes.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

TESTS = Path(__file__).parent
PARITY = TESTS / "parity"
FRAMEWORKS = ("torch", "mindspore")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring tests that share networks together, for one worker (see ``group``), and mark what needs MindSpore."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
        if "mindspore" in group(item) or item.path.is_relative_to(PARITY):
            item.add_marker(pytest.mark.mindspore)
    places = {name: place for place, name in reversed(list(enumerate(map(group, items))))}
    items.sort(key=lambda item: places[group(item)])


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After the last test of a group, forget what its tests have kept."""
    if nextitem is None or group(item) != group(nextitem):
        release()


def group(item: pytest.Item) -> str:
    """Return the file of a test with what divides it: the framework, the method of a golden file, a deep golden file itself."""
    divided = []
    if not item.path.is_relative_to(PARITY):  # there a test needs both
        divided = [value for value in parameters(item) if value in FRAMEWORKS]
    if "golden_case" in getattr(item, "fixturenames", ()):
        case = item.callspec.params["golden_case"]
        divided = (
            [case.id.translate(str.maketrans("[", ":", "]"))]
            if case.kind and case.kind.deep
            else [case.method, case.framework]
        )
    return ":".join([str(item.path.relative_to(TESTS)), *divided])


def parameters(item: pytest.Item) -> list[str]:
    """Return the parameters of a test that are text."""
    return (
        [value for value in item.callspec.params.values() if isinstance(value, str)]
        if hasattr(item, "callspec")
        else []
    )


def release() -> None:
    """Empty the caches of test modules and let MindSpore return unused memory, which throws away its compiled graphs."""
    for name, module in list(sys.modules.items()):
        if name.startswith("tests."):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
    NETWORKS.clear()
    gc.collect()
    if "mindspore" in sys.modules:
        sys.modules["mindspore"].ms_memory_recycle()
