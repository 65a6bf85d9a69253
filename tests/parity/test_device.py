"""The start of the MindSpore backend: what it refuses, what it caps, and that importing the package costs nothing."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from common.errors import UserError
from mindspore_impl.device import ONEDNN_CAP, check_numpy, processors, start
from tests.processes import python

pytest.importorskip("mindspore")

CONVOLUTION = """
import numpy as np
from mindspore_impl.networks.layers import conv
from mindspore import Tensor
conv(32, 32, 3)(Tensor(np.ones((1, 32, 20, 20), np.float32))).asnumpy()
"""


def test_importing_the_package_imports_no_framework():
    code = "import sys, mindspore_impl, mindspore_impl.device; print('mindspore' in sys.modules)"
    assert python(code).strip() == "False"


@pytest.mark.parametrize(
    "device, message",
    [
        ("cuda", "no GPU build"),
        ("cuda:1", "no GPU build"),
        ("tpu", "not a device"),
        ("cpu:1", "not a device"),
        ("ascend:x", "not a device"),
        ("ascend", "finds no Ascend"),
    ],
)
def test_devices_that_are_refused(device, message):
    with pytest.raises(UserError, match=message):
        start(device)


def test_devices_that_are_here():
    assert start() == start("auto") == start("cpu") == start("CPU") == "CPU"


def test_numpy_2_is_refused():
    check_numpy("1.26.4")
    with pytest.raises(UserError, match="NumPy 2.4.1; install"):
        check_numpy("2.4.1")


@pytest.mark.skipif(
    not Path("/proc/self/task").exists() or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two processors"
)
def test_threads_that_count_one_processor_may_use_all():
    counted, end = [], threading.Event()

    def work() -> None:
        counted.append(len(os.sched_getaffinity(0)))
        end.wait()

    thread = threading.Thread(target=work)
    with processors(1):
        thread.start()
    allowed = [os.sched_getaffinity(number) for number in (0, thread.native_id)]
    end.set()
    thread.join()
    assert counted == [1] and allowed[0] == allowed[1] and len(allowed[0]) > 1


def test_synchronize_after_start():
    assert python(
        "from mindspore_impl.device import start; start(); import mindspore as ms; ms.runtime.synchronize(); print(1)"
    )


def test_the_cap_keeps_convolutions_off_the_reference_loop():
    logs = {cap: python(CONVOLUTION, ONEDNN_VERBOSE="1", **{ONEDNN_CAP: cap}) for cap in ("on", "off")}
    assert all("convolution" in log for log in logs.values())
    assert "ref:any" not in logs["on"]
    if "ref:any" not in logs["off"]:
        pytest.skip("on this processor oneDNN chooses its reference loop in neither case")
