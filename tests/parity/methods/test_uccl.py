"""Whole steps of UCCL, UniMatch and FixMatch in both frameworks."""

from __future__ import annotations

import dataclasses

import mindspore as ms
import numpy as np
import pytest

from common.config.schema import CriterionConfig, ExperimentConfig
from common.experiment import compose
from common.methods.uccl.augment import draw_area_box, inside
from common.methods.uccl.uccl import CKRSettings, SBUSettings
from mindspore_impl.methods.uccl.ckr_sbu import class_knowledge
from tests.parity import steps
from tests.parity.step_parity import StepParity
from tests.parity.steps import (
    FIRST_STEP,
    Checkerboards,
    apart,
    in_mindspore,
    in_torch,
)

SIZE, PADDED = 33, 9


def config(method: str, *settings: str) -> ExperimentConfig:
    """Return the experiment of ``method`` on the smallest network."""
    short = [
        "trainer.device=cpu", "trainer.threads=1", "trainer.epochs=4", "network.width=16", "optimizer.lr=0.001",
        "optimizer.head_lr_times=5", "optimizer.poly_lag=1", "method.conf_thresh=0.25",
    ]  # fmt: skip
    return compose(f"shapes/12/{method}", [*short, *settings])


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
    "uccl, authors": UCCL,
    "uccl, fixed": config("uccl", "method.preset=fixed"),
    "uccl, other switches": changed(
        sbu=SBUSettings(support="uncertain", conf_thresh=0.22), ckr=CKRSettings(ignored="exclude", detach_weights=False)
    ),
}


def no_lag(method, monkeypatch) -> None:
    """Set the rate before the step instead of after it."""
    method.optimizer.config = dataclasses.replace(method.optimizer.config, poly_lag=0)


def no_extra_passes(method, monkeypatch) -> None:
    """Leave out the passes that only move running statistics: the CutMix partner's labels change."""
    method.settings = dataclasses.replace(method.settings, bn_extra_passes=False)


def padding_left_out(method, monkeypatch) -> None:
    """Let CKR run over valid pixels only."""
    method.settings = dataclasses.replace(method.settings, ckr=CKRSettings(ignored="exclude", detach_weights=False))


def weights_detached(method, monkeypatch) -> None:
    """Give CKR's weights no gradient."""
    method.settings = dataclasses.replace(method.settings, ckr=CKRSettings(ignored="rows", detach_weights=True))


class TestUCCL(StepParity):
    CONFIG = UCCL
    FIRST_STEPS = FIRST_STEPS
    BROKEN = (no_lag, no_extra_passes, padding_left_out, weights_detached)
    METHODS = {method: config(method) for method in ("uccl", "unimatch", "fixmatch")}

    def batches(self, count: int) -> list[dict]:
        return batches(count)

    def check_first_step(self, ours, theirs) -> None:
        for name, tensor in ours.networks()["student"].items():
            if ".running_" in name:
                statistic = theirs.networks()["student"][name]
                np.testing.assert_allclose(statistic, tensor, rtol=1e-4, atol=1e-5, err_msg=name)

    def check_curve(self, losses, ours) -> None:
        assert all(step["certain"] and step["sbu"] and step["ckr"] for step in losses)

    def test_other_dropped_features_leave_the_gate(self, curve):
        ours = in_torch(UCCL)
        kept = [np.ones((4, channels, 1, 1), np.float32) for channels in (32, 64)]
        assert apart([ours.step(batches(1)[0], steps.clock(0), kept)], curve[0][:1]) > FIRST_STEP


def test_passes_whose_graph_nobody_reads_have_none(monkeypatch):
    """In PyTorch by the outputs; what MindSpore records is part of the golden steps."""
    method, seen = in_torch(UCCL), {}
    forward = method.forward

    def observed(role, images, clock, purpose="", **options):
        outputs = forward(role, images, clock, purpose, **options)
        if purpose:
            seen[purpose] = outputs
        return outputs

    monkeypatch.setattr(method, "forward", observed)
    method.step(batches(1)[0], steps.clock(0))
    recorded = [
        purpose for purpose, outputs in seen.items() if any(output.requires_grad for output in outputs.values())
    ]
    assert list(seen) == ["weak1", "weak2", "extra1", "extra2", "weak", "strong"]
    assert recorded == ["weak1", "weak2", "weak", "strong"]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["nothing certain", "all labels ignored", "all padding"])
def test_training_goes_on_without_anything_to_learn_from(case):
    batch = batches(1)[0]
    threshold = 1.0 if case == "nothing certain" else UCCL.method.conf_thresh
    if case == "all labels ignored":
        batch["labelled"]["label"][:] = 255
    if case == "all padding":
        for name in ("ignore", "mix_ignore"):
            batch["unlabelled"][name][:] = 255
    settings, losses = changed(conf_thresh=threshold), []
    for method in (in_torch(settings), in_mindspore(settings)):
        losses.append(method.step(batch, steps.clock(0)))
        assert all(np.isfinite(tensor).all() for tensor in method.networks()["student"].values())
    empty = {"all labels ignored": ["sup"], "nothing certain": ["strong", "feature"]}.get(
        case, ["strong", "feature", "sbu", "certain"]
    )
    assert apart(losses[1:], losses[:1]) <= FIRST_STEP and not any(losses[0][name] for name in empty)


def test_detached_weights_in_mindspore_leave_later_gradients_as_they_are():
    """A compiled function that was called with a gradient to some arguments loses that to others, without a word."""
    rng = np.random.default_rng(0)
    weak, strong, logits = (ms.Tensor(rng.standard_normal((2, n, 7, 11)).astype(np.float32)) for n in (16, 16, 6))
    ignored = ms.Tensor(rng.random((2, 7, 11)) < 0.3)

    def gradients(detached: bool) -> list[np.ndarray]:
        def loss(strong, logits=logits):
            return class_knowledge(weak, strong * 1, logits * 1, ignored, "exclude", detached)

        result = ms.grad(loss, 0 if detached else (0, 1))(*[strong] if detached else (strong, logits))
        return [result.asnumpy()] if detached else [gradient.asnumpy() for gradient in result]

    alone, _, first, second = [gradients(detached) for detached in (True, True, False, False)]
    assert all(map(np.array_equal, first, second)) and all(gradient.any() for gradient in first)
    np.testing.assert_allclose(alone[0], first[0], rtol=1e-5, atol=1e-9)
