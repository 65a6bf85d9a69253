"""The base class of the methods, on a small network: what it saves, what gets a gradient, how the teacher begins."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from common.experiment import compose  # noqa: E402
from common.methods.interface import Clock, NonFiniteLoss  # noqa: E402
from torch_impl.methods.cpcl.cpcl import CPCL  # noqa: E402
from torch_impl.methods.u2pl.u2pl import U2PL  # noqa: E402
from torch_impl.session import Session  # noqa: E402

SMALL = ["trainer.device=cpu", "trainer.threads=1", "network.width=16"]
U2PL_CONFIG = compose(
    "shapes/12/u2pl",
    [
        *SMALL, "network.representation=16", "method.sup_only_epochs=1", "method.ema_first_epoch=copy_once",
        "method.contrastive={num_queries: 8, num_negatives: 6, low_rank: 1, anchor_ema: true}",
    ],
)  # fmt: skip


def clock(epoch: int, step: int = 0) -> Clock:
    """Return where a run of 4 epochs of 5 steps stands."""
    return Clock(epoch=epoch, step=step, iteration=5 * epoch + step, epochs=4, iterations_per_epoch=5)


def batch(labels: int | None = None) -> dict:
    """Return noise images with random labels, or with one everywhere."""
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((2, 3, 33, 33)).astype(np.float32) for _ in range(2)]
    label = rng.integers(0, 6, (2, 33, 33)) if labels is None else np.full((2, 33, 33), labels)
    labelled = {"ids": ["a", "b"], "image": images[0], "label": label.astype(np.uint8)}
    return {"labelled": labelled, "unlabelled": {"ids": ["c", "d"], "image": images[1]}}


def u2pl() -> U2PL:
    """Return U2PL at its start."""
    return U2PL(U2PL_CONFIG, Session(U2PL_CONFIG))


def test_names_of_what_is_saved_are_those_of_older_runs():
    method = u2pl()
    method.step(batch(), clock(1))
    parameters = [name for name, _ in method.student.named_parameters()]
    expected = {*(f"momentum.{name}" for name in parameters), *(f"bank.{index}" for index in range(6)), "prototype"}
    assert set(method.state()) == expected and list(method.networks()) == ["student", "teacher"]
    config = compose("shapes/12/cpcl", SMALL)
    images = {
        name: {"ids": ["a", "b"], "image": batch()["labelled"]["image"]} for name in ("unlabelled", "unlabelled_other")
    }
    branches = CPCL(config, Session(config))
    branches.step({"labelled": batch()["labelled"], **images}, clock(0))
    names = [name for name, _ in branches.nets["branch1"].named_parameters()]
    assert set(branches.state()) == {f"{role}.momentum.{name}" for role in ("branch1", "branch2") for name in names}


def test_a_step_with_one_class_keeps_the_moving_prototypes():
    method = u2pl()
    method.step(batch(), clock(1))
    method.step(batch(255), clock(1, 1))
    before = method.state()["prototype"]
    method.forward = lambda *arguments, **options: one_class(U2PL.forward(method, *arguments, **options))
    method.step(batch(2), clock(1, 2))
    assert before.any() and np.array_equal(method.state()["prototype"], before)


def one_class(outputs: dict) -> dict:
    """Return the outputs with logits that call everything class 2."""
    favoured = torch.zeros_like(outputs["logits"])
    favoured[:, 2] = 100
    return outputs | {"logits": outputs["logits"] * 0 + favoured}


@pytest.mark.parametrize(
    ("role", "options", "recorded"),
    [
        ("student", {}, True), ("student", {"gradient": False}, False), ("student", {"train": False}, False),
        ("teacher", {}, False),
    ],
)  # fmt: skip
def test_only_trained_networks_in_train_mode_have_a_gradient(role, options, recorded):
    method = u2pl()
    images, _ = method.labelled(batch())
    outputs = method.forward(role, images, clock(0), **options)
    assert outputs["logits"].requires_grad is recorded and method.nets[role].training is options.get("train", True)


def test_the_teacher_begins_as_a_copy_and_then_follows():
    method = u2pl()
    before = [value.clone() for value in method.teacher.parameters()]
    method.copy_student(clock(0))
    method.move_teacher(clock(0))
    assert all(torch.equal(value, old) for value, old in zip(method.teacher.parameters(), before))
    method.copy_student(clock(1))
    assert all(torch.equal(*pair) for pair in zip(method.teacher.parameters(), method.student.parameters()))
    with torch.no_grad():
        for value in method.student.parameters():
            value += 1
    method.move_teacher(clock(1, 1))
    for teacher, student in zip(method.teacher.parameters(), method.student.parameters()):
        torch.testing.assert_close(student - teacher, torch.full_like(student, 0.5))
    assert method.evaluated(clock(0)) == "student" and method.evaluated(clock(1)) == "teacher"


def test_losses_that_are_not_finite_leave_the_network_alone():
    method = u2pl()
    before = [value.clone() for value in method.student.parameters()]
    with pytest.raises(NonFiniteLoss, match="unsup.*a, b"):
        method.apply_gradients({"sup": 1.0, "unsup": float("nan")}, batch(), clock(0))
    assert all(torch.equal(value, old) for value, old in zip(method.student.parameters(), before))
