"""One thread per process, and memory that goes back between test files: the deepest goldens alone would fill 16 GB."""

from __future__ import annotations

import gc
import os
import sys

import pytest

# Before any of these libraries is loaded, and for every process that a test starts: networks of 33 x 33 pixels gain nothing
# from a second thread, and threads that wait for one another take the processor from other processes.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After the last test of a file, or of a method's golden files, forget what its tests have kept."""
    if nextitem is None or _group(item) != _group(nextitem):
        release()


def _group(item: pytest.Item) -> tuple[str, str]:
    """The file of a test and, for a golden file, its method."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return str(item.path), parameters["golden_case"].method if "golden_case" in parameters else ""


def release() -> None:
    """Empty the caches of test modules and let MindSpore return unused memory, which throws away its compiled graphs."""
    for name, module in list(sys.modules.items()):
        if name.startswith("tests."):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
    if "tests.parity.steps" in sys.modules:
        sys.modules["tests.parity.steps"].CompiledOnce.networks.clear()
    if "tests.commands.networks" in sys.modules:
        sys.modules["tests.commands.networks"].NETWORKS.clear()
    gc.collect()
    if "mindspore" in sys.modules:
        sys.modules["mindspore"].ms_memory_recycle()
