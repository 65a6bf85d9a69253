"""One process with G groups computes what P processes compute; BatchNorm over all processes; rows of all groups."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from tests import grouped  # noqa: E402
from tests.grouped import BROKEN, HALF, HALF_LOSSES, HALF_STATE, METHODS, apart  # noqa: E402
from tests.processes import PATIENCE  # noqa: E402

LOSSES, GRADIENTS = 1e-6, 1e-5
"""Gates of the design: relative difference of every loss of four steps, and of all gradients of the first together."""

STATE = 1e-5
"""Relative difference of all weights and statistics after four steps, and of banks and prototypes."""

CONTROLS = [("suponly", "plain_batch_norm"), ("cpcl", "plain_batch_norm"), ("u2pl", "own_gradients")]
CONTROLS += [
    ("u2pl", "draws_of_the_first_group"),
    ("u2pl_ael", "draws_of_the_first_group"),
    ("uccl", "masks_of_the_first_group"),
]
"""Cases with a rule that is broken: plain BatchNorm, gradients not summed, equal draws, dropout masks in the wrong places."""

ALONE = ("uccl", "masks_not_by_stream")
"""A rule that is broken in the single process."""

EVENT = ("suponly_fp16", "overflow")
"""The second process's gradient is infinite in the second step."""

FOUR = ("u2pl", "uccl")
"""Cases in four processes."""


def launched(folder: Path, processes: int, groups: int, *cases: str) -> dict[str, dict[str, np.ndarray]]:
    """Return what the first of so many processes has after steps of ``cases``, all in one launch."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return grouped.launched(command, "torch", groups, cases, folder, PATIENCE)


@functools.cache
def alone(name: str, groups: int) -> dict[str, np.ndarray]:
    """Return what this process has after a case's steps."""
    return grouped.steps("torch", name, groups)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two processes: every case, and those with a broken rule."""
    cases = [
        *METHODS,
        *map(grouped.again_of, grouped.AGAIN),
        *HALF,
        *(grouped.key(*special) for special in [*CONTROLS, EVENT]),
    ]
    return launched(tmp_path_factory.mktemp("two"), 2, 2, *cases)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return launched(tmp_path_factory.mktemp("four"), 4, 4, *FOUR)


def differences(computed, expected) -> dict[str, float]:
    kinds = ("losses", "gradients", "networks", *(["state"] if any(k.startswith("state/") for k in expected) else []))
    return {kind: apart(computed, expected, kind) for kind in kinds}


def assert_equal(computed, expected) -> None:
    gates = {"losses": LOSSES, "gradients": GRADIENTS, "networks": STATE, "state": STATE}
    errors = differences(computed, expected)
    assert all(value <= gates[kind] for kind, value in errors.items()), errors


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_compute_what_one_does_with_two_groups(name, two):
    try:
        assert_equal(two[name], alone(name, 2))
    except AssertionError:
        if name not in grouped.AGAIN:
            raise
        again = grouped.again_of(name)
        assert_equal(two[again], alone(again, 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", HALF)
def test_two_processes_in_16_bits_are_near_what_one_does(name, two):
    errors = differences(two[name], alone(name, 2))
    assert errors["losses"] < HALF_LOSSES and errors["networks"] < HALF_STATE, errors


@pytest.mark.slow
def test_an_overflow_in_one_process_leaves_the_step_out_in_all(two):
    """The first process halves the scale, too, and stays with the second."""
    usual, overflown = two[EVENT[0]], two[grouped.key(*EVENT)]
    with grouped.broken("torch", EVENT[1]):
        expected = grouped.steps("torch", EVENT[0], 2)
    scales = [part["state/loss_scale"].item() for part in (usual, overflown, expected)]
    assert scales[1:] == [scales[0] / 2] * 2
    assert apart(overflown, expected, "losses") < HALF_LOSSES
    near = apart(overflown, expected, "networks")
    assert near < HALF_STATE and apart(usual, expected, "networks") > 10 * near


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUR)
def test_four_processes_compute_what_one_does_with_four_groups(name, four):
    assert_equal(four[name], alone(name, 4))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rule"), CONTROLS, ids=[grouped.key(*control) for control in CONTROLS])
def test_a_broken_rule_is_noticed(name, rule, two):
    errors = differences(two[grouped.key(name, rule)], alone(name, 2))
    assert errors["gradients"] > 100 * GRADIENTS or errors["networks"] > 100 * STATE or errors["losses"] > 100 * LOSSES


@pytest.mark.slow
def test_dropout_masks_that_are_not_shared_out_by_stream_are_noticed(two):
    """Where a process has several groups: the masks of clean and of perturbed features lie one after the other."""
    with grouped.broken("torch", ALONE[1]):
        errors = differences(two[ALONE[0]], grouped.steps("torch", ALONE[0], 2))
    assert errors["gradients"] > 100 * GRADIENTS


def test_groups_are_not_one_batch():
    """With two groups divisors, hard examples and draws are other ones than with one."""
    one, two = (alone("suponly_ohem", groups) for groups in (1, 2))
    assert apart(two, one, "losses") > 1e-3


def test_every_rule_is_broken_somewhere():
    assert {rule for _, rule in [*CONTROLS, ALONE]} == set(BROKEN)
