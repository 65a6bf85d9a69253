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
PARITY, ONNX = TESTS / "parity", TESTS / "onnx"
FRAMEWORKS = ("torch", "mindspore")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring tests that share networks together, for one worker (see ``group``), and mark what their folder or parameter says."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
        if "mindspore" in parameters(item) or item.path.is_relative_to(PARITY):
            item.add_marker(pytest.mark.mindspore)
        if item.path.is_relative_to(ONNX):
            item.add_marker(pytest.mark.onnx)
    places = {name: place for place, name in reversed(list(enumerate(map(group, items))))}
    items.sort(key=lambda item: places[group(item)])


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After the last test of a group, forget what its tests have kept."""
    if nextitem is None or group(item) != group(nextitem):
        release()


def group(item: pytest.Item) -> str:
    """Return the file of a test and what divides it: the framework, and the method of a golden file, or a deep one's name.

    In ``parity`` a test needs both frameworks; in ``onnx`` all share the exported models.
    """
    if item.path.is_relative_to(ONNX):
        return ONNX.name
    divided = [] if item.path.is_relative_to(PARITY) else [name for name in parameters(item) if name in FRAMEWORKS]
    if "golden_case" in getattr(item, "fixturenames", ()):
        case = item.callspec.params["golden_case"]
        deep = case.kind is not None and case.kind.deep
        divided = [case.method, *[case.path.stem] * deep, case.framework]
    return ":".join([str(item.path.relative_to(TESTS)), *divided])


def parameters(item: pytest.Item) -> list[str]:
    """Return the parameters of a test that are text, and the framework of a golden file."""
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return [value for value in values if isinstance(value, str)] + [
        value.framework for value in values if hasattr(value, "framework")
    ]


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
