"""One process with two groups computes what two processes compute, by MindSpore's launcher."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mindspore")

from common.paths import PROJECT  # noqa: E402
from experiments.launch import free_port  # noqa: E402
from tests import grouped  # noqa: E402
from tests.grouped import HALF_LOSSES, HALF_STATE, apart  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.mindspore]

LOSSES, GRADIENTS, STATE = 1e-6, 1e-5, 1e-5
CASES = ("suponly", "u2pl", "cpcl", "uccl_fixed", "suponly_accumulate")
CONTROL = ("suponly", "own_gradients")
HALF, EVENT = "suponly_fp16", ("suponly_fp16", "overflow")
LIMIT = 900
"""Seconds for one launch: a minute and a half on a quiet machine, most of it to compile graphs."""


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """Two processes, one launch."""
    folder = tmp_path_factory.mktemp("msrun")
    command = [
        str(Path(sys.executable).with_name("msrun")), "--worker_num=2", "--local_worker_num=2", "--bind_core=True",
        "--master_addr=127.0.0.1", f"--master_port={free_port()}", f"--log_dir={folder / 'logs'}", "--join=True",
        str(PROJECT / "experiments" / "run_module.py"),
    ]  # fmt: skip
    cases = [*CASES, grouped.key(*CONTROL), HALF, grouped.key(*EVENT)]
    return grouped.launched(command, "mindspore", 2, cases, folder, LIMIT)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_compute_what_one_does_with_two_groups(name, two):
    expected = grouped.steps("mindspore", name, 2)
    gates = {"losses": LOSSES, "gradients": GRADIENTS, "networks": STATE}
    gates |= {"state": STATE} if any(key.startswith("state/") for key in expected) else {}
    errors = {kind: apart(two[name], expected, kind) for kind in gates}
    assert all(value <= gates[kind] for kind, value in errors.items()), errors


def test_gradients_that_are_not_summed_are_noticed(two):
    expected = grouped.steps("mindspore", CONTROL[0], 2)
    assert apart(two[grouped.key(*CONTROL)], expected, "gradients") > 100 * GRADIENTS


def test_an_overflow_in_one_process_leaves_the_step_out_in_all(two):
    """The second process's gradient is infinite in the second step; the first one halves the scale, too, and stays with it."""
    usual, overflown = two[HALF], two[grouped.key(*EVENT)]
    with grouped.broken("mindspore", EVENT[1]):
        expected = grouped.steps("mindspore", HALF, 2)
    scales = [part["state/loss_scale"].item() for part in (usual, overflown, expected)]
    assert scales[1:] == [scales[0] / 2] * 2
    near = apart(overflown, expected, "losses")
    assert near < HALF_LOSSES and apart(usual, expected, "losses") > 10 * near
    assert apart(overflown, expected, "networks") < HALF_STATE
