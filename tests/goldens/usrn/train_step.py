"""Golden kind ``train_step``: one whole step of the real two-branch network, compared with float64."""

from __future__ import annotations

import dataclasses

import numpy as np

from common.arrays import IGNORE
from common.checkpoints.layouts import DIALECTS
from common.experiment import compose
from common.methods.interface import Clock
from tests.goldens.frameworks import Framework
from tests.goldens.golden import STEP, Check, Golden, close, exact
from tests.goldens.seeded import seeded_state
from tests.goldens.u2pl.steps import gradients

Tensors = dict[str, np.ndarray]
DIALECT = DIALECTS["usrn"]
LOSSES = {"Ls": "sup", "Ls_sub": "sup_sub", "Lu_sub": "unsup_sub", "Lu_reg": "unsup_reg", "total": "loss"}
DOUBLE = 1e-5
"""Gate of everything in PyTorch, which computes the step in float64 as the recorded one was."""
LOSS = 2e-4
"""Gate of losses in float32, twice the noise that was recorded between the two precisions."""
GRADIENT = {"classifier": 3e-3, "encoder.aspp": 3e-2, "encoder.decoder": 3e-2, "encoder.backbone": 1.5e-1}
"""Gates of gradients in float32 by the authors' names: three times the recorded noise (BatchNorm over a few values)."""


def experiment(golden: Golden):
    """Return our experiment with the file's settings, without dropout."""
    counts = golden["hp_split"].tolist()
    overrides = [
        f"network.encoder=resnet{golden.number('hp_layers')}", f"network.subclasses={sum(counts)}",
        "network.preset=usrn", "network.backbone_weights=null", "network.aspp_dropout=0.0", "network.head_dropout=[0.0, 0.0]",
        f"method.subclass_counts={counts}", f"method.threshold={golden.number('hp_threshold')}",
        f"optimizer.lr={golden.number('hp_lr') / 10}", "optimizer.head_lr_times=10", "trainer.device=cpu",
        f"optimizer.momentum={golden.number('hp_momentum')}", f"optimizer.weight_decay={golden.number('hp_weight_decay')}",
    ]  # fmt: skip
    config = compose("voc_mini/1_8/usrn", overrides)
    classes = tuple(f"class{index}" for index in range(golden.number("hp_classes")))
    return dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, classes=classes))


def initial_state(golden: Golden, shapes: dict) -> dict[str, np.ndarray]:
    """Return the seeded weights in the authors' names, the classifiers' scaled."""
    state = seeded_state(shapes, golden.number("hp_seed"))
    for name in ("classifier.1.weight", "classifier_SubCls.1.weight"):
        state[name] *= np.float32(golden.number("hp_classifier_scale"))
    return state


class SeededSession:
    """Gives the method the file's network; mirrors ``session.Session`` as far as the method uses it."""

    def __init__(self, golden: Golden, framework: Framework, config) -> None:
        self.framework, self.config = framework, config
        self.device = framework.module("device").choose_device("cpu")
        self.processes = framework.module("processes").Processes()
        self.golden = golden

    def network(self, role: str):
        """Return the network with its seeded weights."""
        checkpoint = self.framework.module("checkpoint")
        network = self.framework.build(self.config.network, len(self.config.dataset.classes))
        shapes = {name: array.shape for name, array in checkpoint.network_tensors(network).items()}
        foreign = {DIALECT.foreign_name(name): shape for name, shape in shapes.items()}
        checkpoint.load_network(network, DIALECT.to_neutral(initial_state(self.golden, foreign), "seeded"), role)
        return network.double() if self.framework.name == "torch" else network

    def tensor(self, array: np.ndarray):
        """Return ``array`` as a tensor, images in the network's precision."""
        wide = self.framework.name == "torch" and array.dtype == np.float32
        return self.framework.tensor(array.astype(np.float64) if wide else array)

    def masks(self, *_) -> list:
        """No dropout."""
        return []


def train_step(golden: Golden, framework: Framework) -> list[Check]:
    """Losses, decisions, gradients, running statistics and parameters after the step."""
    config, module = experiment(golden), framework.module("methods.usrn.usrn")
    method = module.USRN(config, SeededSession(golden, framework, config))
    before, seen, original = method.networks()["student"], [], module.pseudo_labels
    base = framework.module("methods.base")
    compiled = getattr(base, "forward", None)
    module.pseudo_labels = lambda *arguments: seen.append(original(*arguments)) or seen[-1]
    if compiled:  # one step is faster without compiling
        base.forward = lambda network, x, masks=(), pooled=False: network(x, masks, pooled)
    try:
        losses = method.step(batch(golden), Clock(epoch=0, step=0, iteration=0, epochs=1, iterations_per_epoch=1))
    finally:
        module.pseudo_labels = original
        if compiled:
            base.forward = compiled
    grads = gradients(before, {}, method.state(), config.optimizer)
    after = method.networks()["student"]
    double = framework.name == "torch"
    gate = DOUBLE if double else LOSS
    return [
        *(close(f"out64_{theirs}", losses[ours], golden[f"out64_{theirs}"], gate) for theirs, ours in LOSSES.items()),
        *decided(golden, framework, seen[0]),
        *gradient_norms(golden, grads, double),
        *entries(golden, grads, before, after, double),
    ]


def batch(golden: Golden) -> dict:
    """Return the file's images and labels as a batch of ours."""
    views = golden["in_x_ul"]
    labelled = {"image": golden["in_x_l"], "label": golden["in_target"], "subclass": golden["in_target_sub"]}
    unlabelled = {"weak": views[:, 0], "strong": views[:, 1]}
    return {"labelled": labelled | {"ids": ["labelled"]}, "unlabelled": unlabelled | {"ids": ["unlabelled"]}}


def decided(golden: Golden, framework: Framework, decisions) -> list[Check]:
    """Compare what the weak view decided."""
    ours = {field.name: framework.array(getattr(decisions, field.name)) for field in dataclasses.fields(decisions)}
    return [
        exact("out64_mask_reg", ours["kept_label"] != IGNORE, golden["out64_mask_reg"]),
        exact("out64_mask_sub", ours["kept_subclass"] != IGNORE, golden["out64_mask_sub"]),
        exact("out64_pseudo_reg", ours["label"], golden["out64_pseudo_reg"]),
        exact("out64_pseudo_sub", ours["subclass"], golden["out64_pseudo_sub"]),
        exact("out64_gate", ours["gate_open"], golden["out64_gate"]),
    ]


def gradient_gate(name: str, double: bool) -> float:
    """Return the gate of a parameter's gradient by the authors' name."""
    return DOUBLE if double else next(gate for start, gate in GRADIENT.items() if name.startswith(start))


def gradient_norms(golden: Golden, grads: Tensors, double: bool) -> list[Check]:
    """Compare every parameter's gradient norm, relative to the largest one under the same gate."""
    names, norms = golden["out_parameter_names"].tolist(), golden["out64_grad_norms"]
    ours = np.array([np.sqrt((grads[DIALECT.neutral_name(name)] ** 2).sum(dtype=np.float64)) for name in names])
    checks = []
    for gate in [DOUBLE] if double else sorted(set(GRADIENT.values())):
        chosen = [gradient_gate(name, double) == gate for name in names]
        checks.append(close(f"out64_grad_norms with gate {gate:g}", ours[chosen], norms[chosen], gate))
    return checks


def entries(golden: Golden, grads: Tensors, before: Tensors, after: Tensors, double: bool) -> list[Check]:
    """Compare the recorded statistics, and the first values of gradients and of the parameters' changes, as vectors."""
    checks = []
    for quantity in golden.arrays:
        kind, _, name = quantity.removeprefix("out64_").partition("_")
        if not quantity.startswith("out64_") or kind not in ("mean", "var", "param", "grad") or "." not in name:
            continue
        if kind in ("mean", "var"):
            ours = after[f"{DIALECT.neutral_name(f'{name}.weight').removesuffix('weight')}running_{kind}"]
            checks.append(close(quantity, ours, golden[quantity], DOUBLE if double else STEP))
            continue
        size, neutral = golden[quantity].size, DIALECT.neutral_name(name)
        start = before[neutral].ravel()[:size].astype(np.float64) if kind == "param" else 0.0
        ours = (grads if kind == "grad" else after)[neutral].ravel()[:size] - start
        theirs = golden[quantity] - start
        rounding = 0.0 if double else 1e-7 * np.linalg.norm(start)
        error = max(np.linalg.norm(ours - theirs) - rounding, 0.0) / np.linalg.norm(theirs)
        checks.append(Check(quantity, float(error), gradient_gate(name, double)))
    return checks
