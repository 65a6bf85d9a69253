"""Golden kind ``train_step_CASE_ITERATION``: whole training steps with a stand-in network and recorded draws.

State is carried from step to step, so a case is run once per framework, from its first file to its last, and every
file is then compared with what was seen in its step.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from common.methods.interface import Clock
from common.networks.tensors import is_counter
from tests.goldens.frameworks import Framework, load_framework
from tests.goldens.golden import STEP, Check, Golden, close, exact, missing
from tests.goldens.seeded import seeded_state
from tests.goldens.u2pl.contrastive import RecordedDraws
from tests.goldens.u2pl.settings import experiment_of

Tensors = dict[str, np.ndarray]


@dataclass
class Step:
    """What was seen of one step: the losses it returned and, if it got so far, everything between."""

    losses: dict[str, float]
    rates: tuple[float, float]
    gradients: Tensors
    networks: dict[str, Tensors]
    calls: list[str]
    seen: dict[str, Any] = field(default_factory=dict)


def train_step(golden: Golden, framework: Framework) -> list[Check]:
    """Compare one step; for a case's ``.json`` the configuration that we make of it."""
    if golden.path.suffix == ".json":
        return configuration(golden)
    steps = run_case(case_file(golden.path), framework.name)
    step = steps[golden.number("iteration")]
    if isinstance(step, Exception):
        raise RuntimeError(f"{golden.path.stem}, or a step before it, ended with {step!r}") from step
    return outcome(golden, step) + (between(golden, step) if "ema_decay" in golden else [])


def configuration(golden: Golden) -> list[Check]:
    """Queue lengths of our settings, and the case's steps without a gap."""
    config = experiment_of(golden.document)
    iterations = [number for number, _ in step_files(golden.path)]
    return [
        exact("queue_size", config.method.queue_sizes(len(config.dataset.classes)), golden.document["queue_size"]),
        exact("iterations without a gap", iterations, range(max(len(iterations), 1))),
    ]


def outcome(golden: Golden, step: Step) -> list[Check]:
    """Losses as they enter the sum, rates, order of the forward passes, gradients, and both networks afterwards."""
    checks = [
        close(f"{n}_loss", step.losses.get(n, 0.0), golden[f"{n}_loss"], STEP) for n in ("sup", "unsup", "contra")
    ]
    groups = golden["lr_groups"]
    checks.append(close("lr_groups", [step.rates[0], *[step.rates[1]] * (len(groups) - 1)], groups))
    for role in ("student", "teacher"):
        ours, theirs = (
            " ".join(c for c in calls if c.startswith(role)) for calls in (step.calls, golden["forward_calls"])
        )
        checks.append(exact(f"forward passes of the {role}", ours, theirs))
    norm = np.sqrt(sum((gradient**2).sum(dtype=np.float64) for gradient in step.gradients.values()))
    checks.append(close("grad_norm_total", norm, golden["grad_norm_total"], STEP))
    for name in golden.arrays:
        kind, _, rest = name.partition("/")
        role, _, entry = rest.partition("/")
        if kind == "grad":
            checks.append(entry_check(name, step.gradients.get(rest), golden[name]))
        elif kind == "after" and (entry in step.networks[role] or not is_counter(entry)):
            checks.append(entry_check(name, step.networks[role].get(entry), golden[name]))
    return checks


def entry_check(quantity: str, ours: np.ndarray | None, golden: np.ndarray) -> Check:
    """Compare one tensor of a state dict; counters must be equal."""
    if ours is None:
        return missing(quantity)
    return exact(quantity, ours, golden) if is_counter(quantity) else close(quantity, ours, golden, STEP)


def between(golden: Golden, step: Step) -> list[Check]:
    """Everything that a semi-supervised step decides on its way."""
    seen = step.seen
    two_halves = {
        "maps": ("onehot_l_small", "onehot_u_small"),
        "probabilities": ("prob_l_teacher", "prob_u_teacher"),
    }
    maps, probabilities = (np.concatenate([golden[part] for part in parts]) for parts in two_halves.values())
    return [
        exact("draws that do not fit", seen["misfits"], 0),
        exact("pseudo_label_after_mix", seen["mixed"], golden["pseudo_label_after_mix"]),
        close("drop_percent", seen["percent"], golden["drop_percent"]),
        close("unsup_threshold", seen["threshold"], golden["unsup_threshold"], STEP),
        exact("pseudo_label_after_drop", seen["kept"], golden["pseudo_label_after_drop"]),
        exact("onehot_l_small, onehot_u_small", seen["maps"], maps > 0),
        exact("low_mask", seen["low_mask"], golden["low_mask"][:, 0] > 0),
        exact("high_mask", seen["high_mask"], golden["high_mask"][:, 0] > 0),
        close("prob_l_teacher, prob_u_teacher", seen["probabilities"], probabilities, STEP),
        close("rep_student_abs_mean", np.abs(seen["student"]).mean(), golden["rep_student_abs_mean"], STEP),
        close("rep_teacher_abs_mean", np.abs(seen["teacher"]).mean(), golden["rep_teacher_abs_mean"], STEP),
        exact("terms of the contrastive loss", seen["terms"], len(golden["anchor_index"])),
        exact("new_keys", seen["new_keys"], golden["new_keys"]),
        exact("bank_rows", seen["bank_rows"], golden["bank_rows"]),
        close("contra", seen["contra"], golden["contra"], STEP),
        close("ema_decay", seen["decay"], golden["ema_decay"]),
    ]


def case_file(path: Path) -> Path:
    """Return the case's ``.json`` of one step's file."""
    return path.with_name(re.sub(r"_\d+$", "", path.stem) + ".json")


def step_files(case: Path) -> list[tuple[int, Path]]:
    """Return the case's steps with their files, in order."""
    numbered = [(re.fullmatch(rf"{re.escape(case.stem)}_(\d+)", file.stem), file) for file in case.parent.glob("*.npz")]
    return sorted((int(match[1]), file) for match, file in numbered if match)


@lru_cache(maxsize=4)
def run_case(case: Path, framework_name: str) -> dict[int, Step | Exception]:
    """Run a case's steps one after the other and return what was seen; after an exception only that."""
    document, framework = json.loads(case.read_text(encoding="utf-8")), load_framework(framework_name)
    config = experiment_of(document)
    session = StandInSession(document, framework)
    method = framework.module("methods.u2pl.u2pl").U2PL(config, session)
    steps: dict[int, Step | Exception] = {}
    for number, file in step_files(case):
        golden = Golden(file)
        session.calls.clear()
        try:
            steps[number] = run_step(golden, method, framework, session.calls)
        except Exception as error:  # noqa: BLE001 - it belongs to the test of this step and of those that build on it
            return steps | {later: error for later, _ in step_files(case) if later >= number}
    return steps


class StandInSession:
    """Gives the method seeded stand-in networks; mirrors ``session.Session`` as far as the methods use it."""

    def __init__(self, document: dict, framework: Framework) -> None:
        self.document, self.framework = document, framework
        self.config = experiment_of(document)
        self.device = framework.module("device").choose_device("cpu")
        self.processes = framework.module("processes").Processes()
        self.calls: list[str] = []

    def network(self, role: str):
        """Return the case's network of ``role``, which notes each of its forward passes in ``calls``."""
        shapes = self.document["state_dict"]

        def record(training: bool, batch: int) -> None:
            self.calls.append(f"{role}:{'train' if training else 'eval'}:{batch}")

        network = self.framework.mini_net(shapes, record)
        values = seeded_state(shapes, self.document[f"seed_{role}"])
        self.framework.module("checkpoint").load_network(network, values, role)
        return network

    def tensor(self, array: np.ndarray):
        """Return ``array`` as a tensor."""
        return self.framework.tensor(array)

    def masks(self, *_) -> list:
        """No dropout."""
        return []


def run_step(golden: Golden, method, framework: Framework, calls: list[str]) -> Step:
    """Run the step of one file and return what was seen."""
    document = json.loads(case_file(golden.path).read_text(encoding="utf-8"))
    clock = Clock(
        epoch=golden.number("epoch"),
        step=golden.number("step_in_epoch"),
        iteration=golden.number("iteration"),
        epochs=document["config"]["trainer"]["epochs"],
        iterations_per_epoch=document["iterations_per_epoch"],
    )
    batch = {
        "labelled": {"image": golden["image_l"], "label": golden["label_l"], "ids": ["labelled"]},
        "unlabelled": {"image": golden["image_u"], "ids": ["unlabelled"]},
    }
    before = method.networks()["student"], method.state()
    arguments = []
    if "anchor_index" in golden:
        masks = golden["mix_mask"] > 0 if golden["mixed"] else None
        masks = masks if masks is None else framework.constant(masks)
        arguments = [RecordedDraws(golden["anchor_index"], golden["negative_index"], masks)]
    with observed(framework) as seen:
        losses = method.step(batch, clock, *arguments)
    if seen:
        seen.update(bank_rows=list(method.bank.counts), decay=method.settings.teacher_decay(clock))
        seen.update(misfits=arguments[0].misfits)
    return Step(
        losses=losses,
        rates=method.optimizer.rates(clock),
        gradients=gradients(*before, method.state(), method.config.optimizer),
        networks=method.networks(),
        calls=list(calls),
        seen=seen,
    )


def gradients(weights: Tensors, before: Tensors, after: Tensors, optimizer) -> Tensors:
    """Return the gradients that a step of SGD used, from v_after = momentum * v_before + gradient + weight_decay * weight.

    Both frameworks save their momenta, and a parameter that had no gradient at all has none.
    """
    grads = {}
    for key, velocity in after.items():
        kind, _, name = key.partition(".")
        if kind == "momentum":
            last = before.get(key, np.zeros_like(velocity))
            grads[name] = velocity - optimizer.momentum * last - optimizer.weight_decay * weights[name]
    return grads


@contextmanager
def observed(framework: Framework):
    """Note in the dict that is given what goes in and out of the two functions in the middle of a step."""
    step, bank = (framework.module(f"methods.u2pl.{name}") for name in ("u2pl", "teacher_and_bank"))
    drop, contrastive = step.drop_unreliable, bank.contrastive_loss
    seen, array = {}, framework.array

    def drop_unreliable(uncertainty, pseudo_label, percent):
        kept, threshold = drop(uncertainty, pseudo_label, percent)
        seen.update(mixed=array(pseudo_label), percent=percent, kept=array(kept), threshold=threshold)
        return kept, threshold

    def contrastive_loss(representation, teacher, probabilities, maps, low_mask, high_mask, *rest, **options):
        result = contrastive(representation, teacher, probabilities, maps, low_mask, high_mask, *rest, **options)
        seen.update(student=array(representation), teacher=array(teacher), probabilities=array(probabilities))
        seen.update(maps=array(maps), low_mask=array(low_mask), high_mask=array(high_mask), new_keys=result.new_keys)
        seen.update(contra=float(array(result.loss)), terms=len(result.class_terms))
        return result

    step.drop_unreliable, bank.contrastive_loss = drop_unreliable, contrastive_loss
    try:
        yield seen
    finally:
        step.drop_unreliable, bank.contrastive_loss = drop, contrastive
