"""Golden kinds of UCCL's network: ``network``, ``manifest`` and ``full_step``, whole steps with the real network."""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.checkpoints.layouts import DIALECTS
from common.config.schema import NetworkConfig
from common.experiment import compose
from common.networks.tensors import is_counter
from tests.goldens.frameworks import Framework, load_framework
from tests.goldens.golden import STEP, Check, Golden, close, exact
from tests.goldens.seeded import seeded_state
from tests.goldens.u2pl.networks import compare
from tests.goldens.uccl.data import stubs
from tests.goldens.uccl.steps import FIRST_STEP, Session, batch, experiment_of, losses_of, method_of

DEFAULT = Path(__file__).parent
THEIR_ROUNDING = 1e-3
"""Gate of what is known in float32 only; BatchNorm over a few values amplifies rounding (see their README)."""


class Gates(NamedTuple):
    """Gates of a whole step against the authors' program in float64: losses, median and largest error of gradient norms."""

    losses: float
    median: float
    worst: float


GATES = {"torch": Gates(1e-6, 1e-6, 1e-6), "mindspore": Gates(STEP, 1e-2, 1e-1)}
"""PyTorch runs the step in float64; MindSpore, which has no such convolution, in float32, where gradients are chaotic: the
authors' own norms are off by up to 4e-3, ours in PyTorch by up to 8e-3."""


def network(golden: Golden, framework: Framework) -> list[Check]:
    """Outputs of a strictly loaded network in eval mode; the error against float64 at most three times theirs, or rounding."""
    backbone, classes = golden.name.split("_")[1], golden.number("nclass")
    net = seeded_network(framework.name, backbone, classes, golden.number("seed"))
    outputs = framework.outputs(net, golden["image"])
    logits = framework.predictor(net).logits(golden["image"], golden["image"].shape[2:])
    exact_logits = golden["low_logits_f64"]
    theirs, ours = (np.abs(low - exact_logits).max() for low in (golden["low_logits"], outputs["logits"]))
    allowed = max(3 * theirs, 1e-5 * np.abs(exact_logits).max())
    return [
        *compare("low_logits", outputs["logits"], golden["low_logits"]),
        *compare("logits", logits, golden["logits"]),
        *compare("feature_first8", outputs["decoder"][:, :8], golden["feature_first8"]),
        Check("low_logits against float64, in units of what is allowed", float(ours / allowed), 1.0),
    ]


def manifest(golden: Golden, framework: Framework) -> list[Check]:
    """Every name of the authors' state dict is one of ours with the same shape, one to one, and in the same group."""
    document, dialect = golden.document, DIALECTS["uccl"]
    shapes = dict(document["state_dict"])
    net = built(framework.name, golden.name.split("_")[1], shapes["classifier.weight"][0])
    tensors = framework.module("checkpoint").network_tensors(net)
    ours = {name: list(array.shape) for name, array in tensors.items() if not is_counter(name)}
    theirs = {name: shape for name, shape in shapes.items() if not is_counter(name)}
    neutral = {name: dialect.neutral_name(name) for name in shapes}
    group = document["optimizer_group_0_prefix"]
    parameters = sum(math.prod(shape) for name, shape in ours.items() if ".running_" not in name)
    other_group = sum(n.startswith(group) != str(neutral[n]).startswith("encoder.") for n in theirs)
    return [
        exact("names without a counterpart", sum(name is None for name in neutral.values()), 0),
        exact("names that do not come back", sum(dialect.foreign_name(n or "") != f for f, n in neutral.items()), 0),
        exact("names we lack or have too many", len(set(ours) ^ {neutral[name] for name in theirs}), 0),
        exact("shapes that differ", sum(ours.get(neutral[name]) != shape for name, shape in theirs.items()), 0),
        exact("parameters", parameters, document["parameters"]),
        exact("names in the other learning-rate group", other_group, 0),
        exact("model_key_prefix", dialect.module_prefix, document["checkpoint"]["model_key_prefix"]),
        exact("key of the model", [slot.key for slot in dialect.slots], document["checkpoint"]["layout"][:1]),
    ]


def full_step(golden: Golden, framework: Framework) -> list[Check]:
    """Losses and gradient norms against float64, and what the step leaves behind."""
    name, gates = method_of(golden), GATES[framework.name]
    config = experiment_of(golden, network_config("resnet50"))
    net = seeded_network(framework.name, "resnet50", len(config.dataset.classes), golden.number("seed"))
    dropped = [2 * golden[key].astype(np.float32)[..., None, None] for key in ("keep_c1", "keep_c4")]
    with stubs(framework).precise(net) as tensor:
        method = framework.module("methods").method_class(name)(config, Session(framework, net, config, tensor))
        losses = method.step(batch(golden, [golden[f"image_{i}"] for i in range(7)]), FIRST_STEP, dropped)
        gradients = {key.removeprefix("momentum."): value for key, value in method.state().items()}
        tensors = method.networks()["student"]
    terms = losses_of(losses, name)
    terms["loss_all"] = terms.pop("loss")
    checks = [close(quantity, value, golden[f"{quantity}_f64"], gates.losses) for quantity, value in terms.items()]
    return checks + gradient_checks(golden, gradients, gates) + after(golden, tensors)


def gradient_checks(golden: Golden, gradients: dict[str, np.ndarray], gates: Gates) -> list[Check]:
    """Norms of all gradients against float64; single entries, in float32 as theirs, in the classifier only."""
    neutral = [DIALECTS["uccl"].neutral_name(str(name)) for name in golden["grad_names"]]
    norms = np.array([np.linalg.norm(gradients[name].astype(np.float64)) for name in neutral])
    relative = np.abs(norms - golden["grad_norm_f64"]) / np.maximum(golden["grad_norm_f64"], 1e-12)
    stem = [np.linalg.norm(value) for value in (gradients["encoder.conv1.0.weight"], golden["grad_stem_f32"])]
    classifier = gradients["classifier.project.weight"][:, :, 0, 0]
    return [
        Check("grad_norm, median of the relative differences", float(np.median(relative)), gates.median),
        Check("grad_norm, largest relative difference", float(relative.max()), gates.worst),
        close("grad_classifier_weight", classifier, golden["grad_classifier_weight_f32"], THEIR_ROUNDING),
        close("grad_stem, norm", stem[0], stem[1], GATES["mindspore"].worst),
    ]


def after(golden: Golden, tensors: dict[str, np.ndarray]) -> list[Check]:
    """Running statistics and parameters after the step; the order and number of passes decide the former."""
    names = {f"after_{name.replace('.', '_')}_f32": name for name in seeded_shapes("resnet50", 2)}
    checks = []
    for entry in golden.arrays:
        if entry.startswith("after_"):
            ours = tensors[DIALECTS["uccl"].neutral_name(names[entry])]
            checks.append(close(entry, ours, golden[entry], THEIR_ROUNDING))
    for part, counter in (("backbone", "encoder.bn1"), ("head", "classifier.bn2")):
        ours = tensors.get(f"{counter}.num_batches_tracked")
        if ours is not None:  # MindSpore does not count
            checks.append(exact(f"bn_updates_{part}", ours, golden[f"bn_updates_{part}"]))
    return checks


def network_config(backbone: str) -> NetworkConfig:
    """Return the preset ``uccl`` with this encoder."""
    return dataclasses.replace(compose("voc/366/uccl").network, encoder=backbone, backbone_weights=None)


@lru_cache(maxsize=2)
def built(framework_name: str, backbone: str, classes: int):
    """Return the network, its values still undefined."""
    return load_framework(framework_name).build(network_config(backbone), classes)


@lru_cache(maxsize=4)
def seeded_shapes(backbone: str, classes: int) -> dict[str, list[int]]:
    """Return the authors' names and shapes; the manifests are public."""
    document = Golden(DEFAULT / f"manifest_{backbone}.json").document
    resized = document["depends_on_nclass"]
    return {name: [classes, *shape[1:]] if name in resized else shape for name, shape in document["state_dict"]}


def seeded_network(framework_name: str, backbone: str, classes: int, seed: int):
    """Return the network with seeded weights, made by the authors' names."""
    net, framework = built(framework_name, backbone, classes), load_framework(framework_name)
    state = seeded_state(seeded_shapes(backbone, classes), seed)
    framework.module("checkpoint").load_network(net, DIALECTS["uccl"].to_neutral(state, backbone), backbone)
    return net
