"""Whole steps of UCCL, UniMatch and FixMatch: the same start, batches and draws give the same numbers in both frameworks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from common.config import CriterionConfig, ExperimentConfig
from common.data.weak_to_strong import inside
from common.experiment import compose
from common.methods.uccl import CKRSettings, SBUSettings
from common.mixing import draw_area_box
from common.tensors import is_counter
from tests.parity import steps
from tests.parity.steps import (
    CURVE,
    FIRST_STEP,
    GRADIENTS,
    STEPS,
    Checkerboards,
    apart,
    gradients,
    in_mindspore,
    in_torch,
    together,
)

SIZE, PADDED = 33, 9


def config(method: str) -> ExperimentConfig:
    """Return the experiment of ``method`` on the smallest network."""
    settings = [
        "trainer.device=cpu", "trainer.threads=1", "trainer.epochs=4", "network.width=16", "optimizer.lr=0.001",
        "optimizer.head_lr_times=5", "optimizer.poly_lag=1", "method.conf_thresh=0.25",
    ]  # fmt: skip
    return compose(f"shapes/12/{method}", settings)


UCCL = config("uccl")


def batches(count: int) -> list[dict]:
    """Return ``count`` batches of 2 labelled and 2 unlabelled images; the first unlabelled one is padded at the bottom."""
    boards, rng, result = Checkerboards(seed=3, classes=6, size=SIZE), np.random.default_rng(5), []
    for _ in range(count):
        labelled = {"ids": ["a", "b"], "image": boards.images(), "label": boards.labels()}
        base, unlabelled = boards.images(), {"ids": ["c", "d"]}
        for prefix in ("", "mix_"):
            for name in ("weak", "strong1", "strong2"):
                noise = rng.standard_normal(base.shape).astype(np.float32) * (0.5 if name != "weak" else 0.1)
                unlabelled[prefix + name] = base + noise
            unlabelled[f"{prefix}ignore"] = np.zeros((2, SIZE, SIZE), np.uint8)
            unlabelled[f"{prefix}ignore"][0, SIZE - PADDED :] = 255
        for name in ("box1", "box2"):
            unlabelled[name] = np.stack([inside(SIZE, draw_area_box(SIZE, rng, 1.0)) for _ in range(2)])
        result.append({"labelled": labelled, "unlabelled": unlabelled})
    return result


def changed(**method) -> ExperimentConfig:
    """Return UCCL with other settings of the method."""
    return dataclasses.replace(UCCL, method=dataclasses.replace(UCCL.method, **method))


FIRST_STEPS = {
    "fixmatch": config("fixmatch"),
    "unimatch, OHEM": dataclasses.replace(
        config("unimatch"), criterion=CriterionConfig(type="ohem", thresh=0.1, min_kept=700)
    ),
    "uccl, released": UCCL,
    "uccl, clean": changed(preset="clean"),
    "uccl, other switches": changed(
        sbu=SBUSettings(support="uncertain", conf_thresh=0.22), ckr=CKRSettings(ignored="exclude", detach_weights=False)
    ),
}


@pytest.mark.parametrize("name", FIRST_STEPS)
def test_first_step(name, monkeypatch):
    ours, theirs = in_torch(FIRST_STEPS[name]), in_mindspore(FIRST_STEPS[name])
    monkeypatch.setattr(theirs.optimizer, "step", lambda _: None)
    expected, found = (steps.run(method, batches(1)) for method in (ours, theirs))
    assert apart(found, expected) <= FIRST_STEP and all(expected[0].values())
    assert together(*gradients(ours.optimizer, theirs.optimizer)) <= GRADIENTS
    for name, tensor in ours.networks()["student"].items():
        if ".running_" in name:
            np.testing.assert_allclose(theirs.networks()["student"][name], tensor, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def curve():
    """Return the losses of 20 steps of UCCL in MindSpore, and the network and the state after them."""
    method = in_mindspore(UCCL)
    return steps.run(method, batches(STEPS)), method.networks()["student"], method.state()


def test_twenty_steps(curve):
    ours = in_torch(UCCL)
    losses, network, state = curve
    assert apart(steps.run(ours, batches(STEPS)), losses) <= CURVE
    assert all(step["certain"] and step["sbu"] and step["ckr"] for step in losses)
    for found, expected in [(state, ours.state()), (network, ours.networks()["student"])]:
        names = {name for name in expected if not is_counter(name)}
        assert set(found) == names
        assert together([found[name] for name in names], [expected[name] for name in names]) <= 10 * CURVE
