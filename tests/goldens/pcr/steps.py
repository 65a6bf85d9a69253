"""Golden kind ``train_step``: a whole semi-supervised step of the method, from recorded network outputs to prototypes.

The networks' parameters are their outputs, so a step's gradients with respect to the outputs are the momenta that the
optimiser has after its first step.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np

from common.config.schema import ExperimentConfig
from common.methods.interface import Clock
from common.methods.pcr.pcr import PCRSettings, select_pixels
from tests.builders import experiment
from tests.goldens.frameworks import Framework
from tests.goldens.golden import Check, Golden, close, exact
from tests.goldens.pcr.data import masks_of
from tests.goldens.pcr.prototypes import as_mask

CLOCK = Clock(epoch=200, step=0, iteration=200, epochs=1000, iterations_per_epoch=1)
"""Late enough for the teacher not to be a copy of the student."""


def train_step(golden: Golden, framework: Framework) -> list[Check]:
    """Mixed images, pseudo-labels, selected pixels, four losses, gradients and the prototypes' upkeep."""
    config = experiment_of(golden)
    session = RecordedSession(golden, framework, config)
    method = framework.module("methods.pcr.pcr").PCR(config, session)
    draws = RecordedDraws(golden)
    with observed(framework) as seen:
        losses = method.step(batch(golden), CLOCK, draws)
    state, count = method.state(), len(golden["label_l"])
    checks = [
        exact("mixed_images", framework.array(method.student.images)[count:], golden["mixed_images"]),
        close("confidence", seen["confidence"], golden["confidence"]),
        exact("pseudo", seen["pseudo"], golden["pseudo"]),
        exact("target_u", seen["target"], golden["target_u"]),
        exact("mask", as_mask(draws.pixels(golden["mask"].shape), golden["mask"].shape), golden["mask"]),
        close("proto_logits", seen["logits"], golden["proto_logits"]),
        exact("match", seen["match"], golden["match"]),
        exact("counts", state["prototypes.pixels"], golden["counts"]),
        close("new_prototypes", framework.array(method.student.prototype_grid()), golden["new_prototypes"]),
        *loss_checks(golden, losses),
        close("grad_pred", state["momentum.encoder.logits"], golden["grad_pred"]),
        close("grad_rep", state["momentum.heads.features"], golden["grad_rep"]),
    ]
    if "aux" in golden:
        checks.append(close("grad_aux", state["momentum.heads.aux"], golden["grad_aux"]))
    return checks


def loss_checks(golden: Golden, losses: dict[str, float]) -> list[Check]:
    """The four terms, each times its weight as it enters the sum, and the sum."""
    proto, unsup = golden.number("weight_proto"), golden.number("weight_unsup")
    weights = {
        "sup": ("sup_linear", 1.0), "sup_proto": ("sup_proto", proto),
        "unsup": ("unsup_linear", unsup), "unsup_proto": ("unsup_proto", unsup * proto),
    }  # fmt: skip
    checks = [close(name, losses[ours], weight * golden[name]) for ours, (name, weight) in weights.items()]
    return [*checks, close("total", losses["loss"], golden["total"])]


def batch(golden: Golden) -> dict:
    """Return the step's batch; the labelled images are not recorded, and nothing depends on them."""
    label, unlabelled = golden["label_l"].astype(np.uint8), golden["images_u"]
    images = np.zeros((len(label), *unlabelled.shape[1:]), np.float32)
    return {
        "labelled": {"image": images, "label": label, "ids": ["labelled"]},
        "unlabelled": {"image": unlabelled, "ids": ["unlabelled"]},
    }


def experiment_of(golden: Golden) -> ExperimentConfig:
    """Return the experiment of a file; data set and network are stand-ins."""
    classes, each, _ = golden["prototypes"].shape
    criterion = {"type": "ohem", "thresh": golden.number("ohem_thresh"), "min_kept": golden.number("ohem_min_kept")}
    return experiment(
        classes,
        network={"prototypes": each, "auxiliary": "aux" in golden},
        augment={"crop": golden["label_l"].shape[1]},
        optimizer={"weight_decay": 0.0},
        criterion=criterion | {"aux_weight": golden.number("aux_weight") if "aux_weight" in golden else 0.0},
        trainer={"seed": 0, "device": "cpu"},
        method=PCRSettings(
            sup_only_epochs=0,
            confidence_threshold=golden.number("threshold"),
            proto_weight=golden.number("weight_proto"),
            unsup_weight=golden.number("weight_unsup"),
            unsup_denominator="all" if golden.number("divide_by_all") else "valid",
            proto_momentum=golden.number("momentum"),
            select_granularity=golden.number("granularity"),
        ),
    )


class RecordedSession:
    """Gives the method networks with the recorded outputs; mirrors ``session.Session`` as far as the method uses it."""

    def __init__(self, golden: Golden, framework: Framework, config: ExperimentConfig) -> None:
        self.golden, self.framework, self.config = golden, framework, config
        self.device = framework.module("device").choose_device("cpu")
        self.processes = framework.module("processes").Processes()

    def network(self, role: str):
        """Return the network of ``role``; in eval mode the teacher is given the unlabelled images only."""
        golden = self.golden
        outputs = {"logits": golden["pred"].copy(), "features": golden["rep"].copy()}
        if "aux" in golden:
            outputs["aux"] = golden["aux"].copy()
        if role == "teacher":
            outputs["logits"][: len(golden["teacher_pred_u"])] = golden["teacher_pred_u"]
        return self.framework.recorded_net(outputs, golden["prototypes"], golden.number("temperature"))

    def tensor(self, array: np.ndarray):
        """Return ``array`` as a tensor."""
        return self.framework.tensor(array)

    def masks(self, *_) -> list:
        """No dropout."""
        return []


class RecordedDraws:
    """The draws of a file; implements :class:`common.methods.pcr.pcr.Draws`."""

    def __init__(self, golden: Golden) -> None:
        self.golden = golden

    def mix_masks(self, batch: int, size: tuple[int, int]) -> np.ndarray | None:
        """Masks of the recorded boxes."""
        return masks_of(self.golden["boxes"], size) if self.golden.number("use_cutmix") else None

    def pixels(self, size: tuple[int, int]) -> np.ndarray:
        """Pixels of the recorded draws."""
        return select_pixels(size, self.golden["row_draws"], self.golden["col_draws"])


@contextmanager
def observed(framework: Framework):
    """Note in the dict that is given what goes in and out of two functions in the middle of a step."""
    module, seen, array = framework.module("methods.pcr.pcr"), {}, framework.array
    confident, predict = module.confident_labels, module.prototype_logits

    def confident_labels(pseudo_label, confidence, threshold):
        kept = confident(pseudo_label, confidence, threshold)
        seen.update(pseudo=array(pseudo_label), confidence=array(confidence), target=array(kept))
        return kept

    def prototype_logits(*arguments):
        logits, match = predict(*arguments)
        seen.update(logits=array(logits), match=array(match))
        return logits, match

    module.confident_labels, module.prototype_logits = confident_labels, prototype_logits
    try:
        yield seen
    finally:
        module.confident_labels, module.prototype_logits = confident, predict
