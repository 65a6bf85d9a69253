"""How the tests run: one thread per process, files shared out to workers, memory that goes back after each.

A test of the markers ``mindspore``, ``onnx`` and ``deep`` compiles a graph, exports a model or runs a network of a paper's depth;
one of ``runs`` starts trainings, workers or tests, or reads whole data sets. ``make check`` leaves these out. ``slow`` ones
are left to ``make test-slow``.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.networks import NETWORKS

# Before any of these libraries is loaded, and for every process that a test starts: networks of 33 x 33 pixels gain nothing
# from a second thread, and threads that wait for one another take the processor from other processes.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

# A run in the background may ignore these signals, and what tests start would, too.
for number, action in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, action)

MOST = 1 << 30
"""Bytes that tests of a group may keep; more go before the next test, which then compiles its networks anew."""

released = {"memory": 0}
"""What the process had in memory after :func:`release`."""

PARITY, ONNX, GOLDENS = "tests/parity/", "tests/onnx/", "tests/goldens/test_goldens.py"
RUNS = (
    "tests/commands/", "tests/common/loading/", "tests/experiments/test_campaign.py", "tests/benchmarks/",
    "tests/common/datasets/test_real_data.py", "tests/goldens/test_kinds.py", "tests/converters/test_authors_checkpoints.py",
)  # fmt: skip
SHARING = (ONNX, "tests/mutations/")
"""Folders whose files all use what is made once for them."""


def group(test: str) -> str:
    """Return what a test, by its name, shares networks with: its file, framework and, for a golden file, method.

    In ``parity`` a test needs both frameworks; in ``onnx`` and ``mutations`` all share files that take long to make.
    """
    file, _, name = test.partition("::")
    for folder in SHARING:
        if file.startswith(folder):
            return folder
    parameters = name.partition("[")[2]
    method = parameters.partition("/")[0] if file == GOLDENS else ""
    framework = [] if file.startswith(PARITY) else re.findall("torch|mindspore", parameters)[-1:]
    return ":".join([file, method, *framework])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Give each worker whole groups of tests, one after the other."""
    from xdist.scheduler import LoadScopeScheduling

    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = group
    return scheduler


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what folder or parameters say, and bring groups together, first those that take long because they compile."""
    for item in items:
        if item.nodeid.startswith(PARITY) or group(item.nodeid).endswith(":mindspore"):
            item.add_marker(pytest.mark.mindspore)
        if item.nodeid.startswith(ONNX):
            item.add_marker(pytest.mark.onnx)
        if item.nodeid.startswith(RUNS):
            item.add_marker(pytest.mark.runs)
    groups = [group(item.nodeid) for item in items]
    compiling = {name for name, item in zip(groups, items) if item.get_closest_marker("mindspore")}
    places = {name: (name not in compiling, place) for place, name in reversed(list(enumerate(groups)))}
    items.sort(key=lambda item: places[group(item.nodeid)])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Forget what tests have kept before a deep network needs the memory."""
    if item.get_closest_marker("deep"):
        release()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Forget it after the last test of a group, after each of a deep network and where much has come together."""
    last = nextitem is None or group(item.nodeid) != group(nextitem.nodeid)
    if last or item.get_closest_marker("deep") or memory() > released["memory"] + MOST:
        release()


def release() -> None:
    """Empty the caches of test modules and return unused memory; MindSpore throws away its compiled graphs with it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("tests."):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
    NETWORKS.clear()
    gc.collect()
    if "mindspore" in sys.modules:
        sys.modules["mindspore"].ms_memory_recycle()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    released["memory"] = memory()


def memory() -> int:
    """Return the bytes that this process has in memory now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
