"""Golden kind ``step_METHOD_VARIANT``: whole steps of FixMatch, UniMatch and UCCL with the network's outputs given."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from common.config.schema import ExperimentConfig, NetworkConfig
from common.methods import SETTINGS
from common.methods.interface import Clock, MethodSettings
from tests.builders import experiment
from tests.goldens.frameworks import Framework
from tests.goldens.golden import Check, Golden, close, exact
from tests.goldens.uccl.data import stubs

WEAK_PASS = [{"decoder": [f"w{view}_feature"], "logits": [f"w{view}_low"]} for view in (1, 2)]
CLEAN_AND_PERTURBED = {"logits": ["cat_pred", "cat_pred_fp"]}
ANSWERS = {
    "fixmatch": [{"logits": ["mix_pred"]}, {"logits": ["cat_pred"]}, {"logits": ["strong_pred"]}],
    "unimatch": [{"logits": ["mix_pred"]}, CLEAN_AND_PERTURBED, {"logits": ["strong_pred"]}],
    "uccl": [
        {"logits": ["mix_pred"]},
        *WEAK_PASS,
        *WEAK_PASS,  # nobody reads what the two extra passes give
        CLEAN_AND_PERTURBED,
        {"decoder": ["strong_feature"], "logits": ["strong_low"]},
    ],
}
"""What each pass of a method gives, in the order of its passes."""

EXTRA_PASSES = slice(3, 5)
"""UCCL's passes whose outputs nobody reads."""

FIRST_STEP = Clock(epoch=0, step=0, iteration=0, epochs=1, iterations_per_epoch=1)


@dataclass
class Session:
    """Gives the method one network, and tensors; mirrors ``session.Session`` as far as the methods use it."""

    framework: Framework
    student: object
    config: ExperimentConfig
    tensor: Callable
    device: object = field(init=False)
    processes: object = field(init=False)

    def __post_init__(self) -> None:
        self.device = self.framework.module("device").choose_device("cpu")
        self.processes = self.framework.module("processes").Processes()

    def network(self, role: str):
        """Return the network."""
        return self.student

    def masks(self, *_) -> list:
        """No dropout inside of the network."""
        return []


def method_of(golden: Golden) -> str:
    """Return the method in a file's name ``..._step_METHOD...``."""
    return re.search("step_([a-z]+)", golden.name)[1]


def settings(name: str, **values) -> MethodSettings:
    """Return the settings of a method."""
    return SETTINGS[name](**values)


def experiment_of(golden: Golden, network: NetworkConfig) -> ExperimentConfig:
    """Return our settings for the authors' configuration; no weight decay, so that momenta are gradients."""
    authors = json.loads(golden["cfg_json"].item())
    criterion, name = {"type": "ce"}, method_of(golden)
    if authors["criterion"]["name"] == "OHEM":
        criterion = {"type": "ohem"} | {key: authors["criterion"]["kwargs"][key] for key in ("thresh", "min_kept")}
    return experiment(
        authors["nclass"],
        settings(name, conf_thresh=authors["conf_thresh"]),
        network=network,
        loader={"batch_labelled": authors["batch_size"], "batch_unlabelled": authors["batch_size"]},
        optimizer={"lr": authors["lr"], "head_lr_times": authors["lr_multi"], "poly_lag": 1, "weight_decay": 0.0},
        criterion=criterion,
        trainer={"epochs": authors["epochs"], "seed": 0, "device": "cpu"},
    )


def batch(golden: Golden, images: list[np.ndarray]) -> dict:
    """Return a batch of labelled images, then weak, strong 1 and strong 2 of u and of m."""
    x, *views = images
    names = ["weak", "strong1", "strong2", "mix_weak", "mix_strong1", "mix_strong2"]
    unlabelled = dict(zip(names, views)) | {
        "ids": ["u"],
        "ignore": golden["ignore"],
        "mix_ignore": golden["ignore_mix"],
    }
    unlabelled |= {f"box{view}": golden[f"box{view}"] > 0 for view in (1, 2)}
    return {"labelled": {"ids": ["x"], "image": x, "label": golden["mask_x"]}, "unlabelled": unlabelled}


def losses_of(losses: dict[str, float], method: str) -> dict[str, float]:
    """Return the authors' numbers for our terms, which are what enters the sum."""
    views = {"fixmatch": 2, "unimatch": 4, "uccl": 4}[method]
    terms = {"loss": losses["loss"], "loss_x": 2 * losses["sup"], "loss_s": views * losses["strong"]}
    terms["mask_ratio"] = losses["certain"]
    if "feature" in losses:
        terms["loss_w_fp"] = 4 * losses["feature"]
    if "sbu" in losses:
        terms |= {"loss_sim_weighted": losses["sbu"], "loss_region_weighted": losses["ckr"]}
    return terms


def step(golden: Golden, framework: Framework) -> list[Check]:
    """Losses, gradients with respect to every output, and what each pass saw, in order."""
    name, calls = method_of(golden), []
    values = {entry[3:]: golden[entry] for entry in golden.arrays if entry.startswith("in_")}
    network = stubs(framework).Prepared(values, ANSWERS[name], lambda *call: calls.append(call))
    config = experiment_of(golden, NetworkConfig(encoder="tiny"))
    method = framework.module("methods").method_class(name)(
        config, Session(framework, network, config, framework.tensor)
    )
    images = ["img_img_x", "img_u_w", "img_u_s1", "img_u_s2", "img_mix_w", "img_mix_s1", "img_mix_s2"]
    with prepared_resize(framework, golden, network):
        losses = method.step(batch(golden, [golden[image] for image in images]), FIRST_STEP)
    terms = losses_of(losses, name)
    checks = [close(quantity, value, golden[quantity]) for quantity, value in terms.items()]
    state = method.state()
    for entry in values:
        ours, theirs = state.get(f"momentum.{entry}", np.zeros(0)), golden[f"d_{entry}"]
        theirs = theirs if theirs.size else np.zeros_like(ours)  # length 0: no gradient reaches it
        checks.append(close(f"d_{entry}", ours, theirs))
    return checks + passes(golden, calls)


def passes(golden: Golden, calls: list[tuple[bool, bool, np.ndarray]]) -> list[Check]:
    """Mode, size and images of every pass; those whose outputs nobody reads run without the gradient that theirs have."""
    training, gradient, images = zip(*calls)
    wanted = golden["calls_grad"].copy()
    if method_of(golden) == "uccl":
        wanted[EXTRA_PASSES] = False
    return [
        exact("calls_training", training, golden["calls_training"]),
        exact("calls_batch", [len(part) for part in images], golden["calls_batch"]),
        exact("calls_grad, without the unread ones", gradient, wanted),
        *(exact(f"call{i}_images", part[:, :1], golden[f"call{i}_images"]) for i, part in enumerate(images)),
    ]


@contextmanager
def prepared_resize(framework: Framework, golden: Golden, network):
    """UCCL's file has large and low logits of the strong views as separate outputs: give the large ones, view by view."""
    module = framework.module("methods.uccl.weak_to_strong")
    original, large = module.resize, iter(())
    if "in_strong_low" in golden:
        count = len(golden["in_w1_low"])
        large = (network.strong_pred[view * count : (view + 1) * count] for view in range(2))

    def resize(x, size):
        return x if tuple(x.shape[2:]) == tuple(size) else next(large)

    module.resize = resize
    try:
        yield
    finally:
        module.resize = original
