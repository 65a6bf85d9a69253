"""Golden kinds ``train_loop_tiny`` and ``train_step``: iterations of the whole methods with recorded batches and masks."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.checkpoints.layouts import DIALECTS
from common.methods.interface import Clock
from common.networks.tensors import is_counter
from tests.goldens.cpcl.networks import DEFAULT, network_config
from tests.goldens.cpcl.settings import training
from tests.goldens.frameworks import Framework
from tests.goldens.golden import FUNCTION, Check, Golden, close, exact
from tests.goldens.seeded import seeded_state

CPCL = DIALECTS["cpcl"]
BRANCHES = ("branch1", "branch2")
DEEP, DEEP_FLIPS = 1e-3, 5e-3
"""Gates of one step of two ResNet-50 with random weights: share of the largest entry, share of the labels."""


@dataclass
class Iteration:
    """What was seen of one iteration; ``norms`` of every tensor afterwards, by the authors' names."""

    losses: dict[str, float]
    rates: tuple[float, float]
    labels: dict[int, np.ndarray]
    disagreement: Any
    norms: dict[str, float] = field(default_factory=dict)


class RecordedMasks:
    """Gives the recorded CutMix masks."""

    def __init__(self, masks: np.ndarray) -> None:
        self.masks = masks

    def mix_masks(self, count: int, size: tuple[int, int]) -> np.ndarray:
        """See :class:`common.methods.cpcl.collaborative.Draws`."""
        assert self.masks.shape == (count, *size)
        return self.masks


class SeededSession:
    """Gives the method networks with seeded values; mirrors ``session.Session`` as far as the methods use it."""

    def __init__(self, golden: Golden, framework: Framework) -> None:
        self.golden, self.framework = golden, framework
        self.device = framework.module("device").choose_device("cpu")
        self.processes = framework.module("processes").Processes()

    def network(self, role: str):
        """Return the file's network for ``role``: the small one where it names a width, else ResNet-50."""
        classes, checkpoint = self.golden.number("num_classes"), self.framework.module("checkpoint")
        if "width" in self.golden:
            module = importlib.import_module(f"tests.goldens.cpcl.mini_{self.framework.name}")
            network = module.MiniNet(self.golden.number("width"), classes)
        else:
            shapes = Golden(DEFAULT / "manifest_voc_r50.json").document["state_dict"]
            network = self.framework.build(network_config(shapes), classes)
        ours = {name: array.shape for name, array in checkpoint.network_tensors(network).items()}
        state = seeded_state({foreign(role, name): shape for name, shape in ours.items()}, self.golden.number("seed"))
        values = {name: state[foreign(role, name)] for name in ours}
        checkpoint.load_network(network, values, role)
        return network

    def tensor(self, array: np.ndarray):
        """Return ``array`` as a tensor."""
        return self.framework.tensor(array)

    def masks(self, *_) -> list:
        """No dropout."""
        return []


def foreign(role: str, name: str) -> str:
    """Return the authors' name of a tensor; those of the small network are already theirs."""
    return f"{role}.{CPCL.foreign_name(name) or name}"


def train_loop_tiny(golden: Golden, framework: Framework) -> list[Check]:
    """Losses, labels, scores and every tensor's norm after each iteration, and all tensors at the end."""
    iterations, networks = run(golden, framework)
    checks = compared_losses(golden, iterations, FUNCTION)
    for branch in (1, 2):
        labels = np.stack([iteration.labels[branch] for iteration in iterations])
        checks.append(exact(f"ps_label_{branch}", labels, golden[f"ps_label_{branch}"]))
    names = [name for name in golden["state_names"].tolist() if name in iterations[0].norms]
    places = [golden["state_names"].tolist().index(name) for name in names]
    norms = [[iteration.norms[name] for name in names] for iteration in iterations]
    checks.append(close("state_norm", norms, golden["state_norm"][:, places]))
    return checks + [close(*entry, FUNCTION) for entry in final(golden, networks)]


def train_step(golden: Golden, framework: Framework) -> list[Check]:
    """The same of steps of two deep networks, by the gates that their sensitivity allows.

    With random weights and BatchNorm over few pixels, rounding of 2e-6 after the first layers is 1e-3 in the logits, in PyTorch
    and in MindSpore alike (measured against float64, pass by pass: MindSpore's error is 0.3 to 1.5 times PyTorch's).
    """
    iterations, networks = run(golden, framework)
    checks = compared_losses(golden, iterations, DEEP)
    for branch in (1, 2):
        flips = float(different(golden, iterations, branch).mean((1, 2, 3)).max())
        checks.append(Check(f"ps_label_{branch} (share of flips)", flips, DEEP_FLIPS))
    return checks + [close(*entry, DEEP) for entry in final(golden, networks)]


def compared_losses(golden: Golden, iterations: list[Iteration], gate: float) -> list[Check]:
    """Compare rates, all losses and, for CPCL, the disagreement."""
    turned = sum(int(different(golden, iterations, branch).sum()) for branch in (1, 2))

    def every(*names: str) -> list[float]:
        return [sum(iteration.losses[name] for name in names) for iteration in iterations]

    def compare(name: str, ours, gate: float = gate) -> Check:
        return close(name, ours, golden[name], max(gate, 3 * float32_noise(golden, name, turned)))

    rates = [iteration.rates[0] for iteration in iterations]
    checks = [close("lr", rates, golden["lr"]), compare("loss", every("loss"))]
    if "config_cps_weight" in golden:
        return [
            *checks,
            compare("loss_sup", every("sup1")),
            compare("loss_sup_r", every("sup2")),
            compare("cps_loss", every("cps1", "cps2")),
        ]
    weight, scores = golden.number("config_unsup_weight"), [iteration.disagreement for iteration in iterations]
    for name, ours in (("loss_unsup_inter", "inter"), ("loss_unsup_union", "union")):
        checks.append(compare(name, np.array(every(ours)) / weight))
    return [
        *checks,
        compare("loss_sup", every("sup1", "sup2")),
        compare("loss_sup_1", every("sup1")),
        compare("loss_sup_2", every("sup2")),
        compare("overlap", [disagreement.overlap for disagreement in scores], gate * 10),
        compare("w", [disagreement.scores for disagreement in scores], gate * 10),
    ]


def different(golden: Golden, iterations: list[Iteration], branch: int) -> np.ndarray:
    """Return bool ``[N,B,H,W]``: where a branch's labels of the ``N`` iterations are not the golden ones."""
    return np.stack([iteration.labels[branch] for iteration in iterations]) != golden[f"ps_label_{branch}"]


def float32_noise(golden: Golden, name: str, turned: int = 0) -> float:
    """Return by how much of itself float32 moves a quantity, if a run of the authors' in float64 was recorded beside it, else 0.

    A loss over the pixels on which the branches agree jumps with every label of them that turns, by one part in their number:
    the labels that turned, between the authors' two runs or between theirs and ours (``turned``, which has a gate of its own),
    give the jumps to expect, at least one where any turned.
    """
    if f"f64_{name}" not in golden:
        return 0.0
    noise = float(np.abs(golden[name] - golden[f"f64_{name}"]).max() / np.abs(golden[name]).max())
    if name == "loss_unsup_inter" and "f64_label_flips" in golden:
        turned = max(turned, int(golden["f64_label_flips"].sum()))
        share = float(golden["overlap"].min())  # of the pixels; a label turns into agreement or out of it
        noise = max(noise, np.ceil(2 * share * turned) / (share * golden["ps_label_1"][0].size))
    return noise


def final(golden: Golden, networks: dict[str, np.ndarray]) -> list[tuple]:
    """Name, our tensor and the golden one of each that the file holds from the end; MindSpore has no counters."""
    entries = []
    for key in golden.arrays:
        name = key.removeprefix("after__")
        if name != key and (name in networks or not is_counter(name)):
            entries.append((key, networks.get(name, np.zeros(0)), golden[key]))
    return entries


def run(golden: Golden, framework: Framework) -> tuple[list[Iteration], dict[str, np.ndarray]]:
    """Run a file's iterations and return what was seen of each, and all tensors at the end by the authors' names."""
    config, count = training(golden), len(golden["lr"])
    module = framework.module(f"methods.cpcl.{config.method.name}")
    method = {"cpcl": "CPCL", "cps": "CPS"}[config.method.name]
    method = getattr(module, method)(config, SeededSession(golden, framework))
    iterations = []
    for index in range(count):
        batch = {"labelled": {"image": golden["imgs"][index], "label": golden["gts"][index], "ids": ["a"]}}
        for stream, key in (("unlabelled", "u0"), ("unlabelled_other", "u1")):
            if key in golden:
                batch[stream] = {"image": golden[key][index], "ids": [key]}
        clock = Clock(epoch=0, step=index, iteration=index, epochs=1, iterations_per_epoch=count)
        draws = RecordedMasks(golden["mask"][index][:, 0] > 0) if "mask" in golden else None
        with observed(method, module, framework) as seen:
            losses = method.step(batch, clock, draws)
        networks = tensors(method)
        norms = {name: float(np.linalg.norm(array.astype(np.float64))) for name, array in networks.items()}
        rates = method.optimizers["branch1"].rates(clock)
        iterations.append(Iteration(losses, rates, labels_of(seen), seen.get("disagreement"), norms))
    return iterations, networks


def tensors(method) -> dict[str, np.ndarray]:
    """Return all tensors of both branches by the authors' names."""
    return {foreign(role, name): array for role, part in method.networks().items() for name, array in part.items()}


def labels_of(seen: dict) -> dict[int, np.ndarray]:
    """Return each branch's labels; those of two views follow one another."""
    return {branch: np.concatenate(seen[branch]) for branch in (1, 2)}


@contextmanager
def observed(method, module, framework: Framework):
    """Note each branch's labels, in the order in which they are made, and the disagreement."""
    seen: dict = {1: [], 2: []}
    predicted, order = method.predicted, iter((2, 2, 1, 1))

    def note_prediction(branch, *arguments):
        prediction = predicted(branch, *arguments)
        seen[branch].append(framework.array(prediction.label))
        return prediction

    def note_labels(logits, size):
        labels = class_ids(logits, size)
        seen[next(order)].append(framework.array(labels))
        return labels

    def note_targets(*arguments):
        joint_targets = targets(*arguments)
        seen["disagreement"] = joint_targets.disagreement
        return joint_targets

    method.predicted = note_prediction
    class_ids, targets = getattr(module, "class_ids", None), getattr(module, "targets", None)
    replaced = {"class_ids": note_labels} if class_ids else {"targets": note_targets}
    for name, function in replaced.items():
        setattr(module, name, function)
    try:
        yield seen
    finally:
        method.predicted = predicted
        for name, function in (("class_ids", class_ids), ("targets", targets)):
            if function:
                setattr(module, name, function)
