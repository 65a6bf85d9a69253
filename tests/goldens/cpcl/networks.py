"""Golden kinds of CPCL's networks: ``network_manifest``, ``network_logits``, ``param_groups``."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np

from common.checkpoints.layouts import DIALECTS
from common.config.schema import NetworkConfig, OptimizerConfig
from common.experiment import compose
from common.networks.tensors import is_counter
from tests.goldens.frameworks import Framework, load_framework
from tests.goldens.golden import NETWORK, Check, Golden, close, exact
from tests.goldens.seeded import seeded_state
from tests.goldens.u2pl.networks import compare

DEFAULT = Path(__file__).parent / "network"
CPCL = DIALECTS["cpcl"]
PREFIXES = {slot.role: slot.prefix for slot in CPCL.slots}
OPTIMISERS = {"optimizer_1", "optimizer_2"}
"""Entries of the authors' files that are not read: momenta under their parameter numbers."""


def manifest(golden: Golden, framework: Framework) -> list[Check]:
    """Every name of the authors' state dict is one of ours in one of the branches, with the same shape, one to one."""
    document = golden.document
    tensors = framework.module("checkpoint").network_tensors(built(golden.path, framework.name))
    ours = {name: list(array.shape) for name, array in tensors.items() if not is_counter(name)}
    checks, homeless = [], set(document["state_dict"])
    for role, prefix in PREFIXES.items():
        names = {name: CPCL.neutral_name(name.removeprefix(prefix)) for name in homeless if name.startswith(prefix)}
        homeless -= set(names)
        counted = {name: neutral for name, neutral in names.items() if not is_counter(name)}
        back = [prefix + (CPCL.foreign_name(neutral or "") or "") for neutral in names.values()]
        checks += [
            exact(f"{role}: names without a counterpart", sum(neutral is None for neutral in names.values()), 0),
            exact(f"{role}: names that do not come back", sum(a != b for a, b in zip(back, names)), 0),
            exact(f"{role}: names we lack or have too many", len(set(ours) ^ set(counted.values())), 0),
            exact(
                f"{role}: shapes that differ",
                sum(ours.get(neutral) != document["state_dict"][name] for name, neutral in counted.items()),
                0,
            ),
        ]
    parameters = sum(math.prod(shape) for name, shape in ours.items() if ".running_" not in name)
    wrapper = {slot.key for slot in CPCL.slots} | {foreign for foreign, _ in CPCL.wrapper.values} | OPTIMISERS
    return [
        *checks,
        exact("names in no branch", len(homeless), 0),
        exact("num_parameters", len(PREFIXES) * parameters, document["num_parameters"]),
        exact("module_prefix", bool(CPCL.module_prefix), document["module_prefix"]),
        exact("checkpoint_wrapper", len(wrapper ^ set(document["checkpoint_wrapper"])), 0),
    ]


def logits(golden: Golden, framework: Framework) -> list[Check]:
    """Logits of every input at both sizes, those of the other branch, and the features' statistics stage by stage."""
    path, size = manifest_of(golden), None
    network, checks, index = built(path, framework.name), [], 0
    load_branch(network, framework, path, "branch1", golden.number("seed"))
    while f"input_{index}" in golden:
        images = golden[f"input_{index}"]
        outputs, size = framework.outputs(network, images), images.shape[2:]
        checks += compare(f"logits_low_{index}", outputs["logits"], golden[f"logits_low_{index}"])
        if f"logits_{index}" in golden:
            full = framework.array(framework.module("resize").resize(framework.tensor(outputs["logits"]), size))
            checks += compare(f"logits_{index}", full, golden[f"logits_{index}"])
        index += 1
    stages = framework.predictor(network).stages(golden["input_0"])
    features = [stages[name].astype(np.float64) for name in ("layer1", "layer2", "layer3", "layer4", "decoder")]
    checks.append(close("feature_means", [feature.mean() for feature in features], golden["feature_means"], NETWORK))
    checks.append(close("feature_stds", [feature.std(ddof=1) for feature in features], golden["feature_stds"], NETWORK))
    load_branch(network, framework, path, "branch2", golden.number("seed"))
    other = framework.outputs(network, golden["input_0"])["logits"]
    return checks + compare("logits_branch2_0", other, golden["logits_branch2_0"])


def param_groups(golden: Golden, framework: Framework) -> list[Check]:
    """The parameters that decay, and those that do not, part by part of the network."""
    network = framework.build(compose("voc/1323/cpcl").network, 21)
    load_branch(network, framework, manifest_of(golden), "branch1", 0)
    optimizer = framework.module("optimizer").Optimizer(network, OptimizerConfig(decay_on="kernels"))
    ours = {True: set(), False: set()}
    for name, parameter in zip(optimizer.names, optimizer.parameters):
        ours[optimizer.group(name, parameter.ndim)[1]].add(CPCL.foreign_name(name))
    theirs = {True: set(), False: set()}
    for group in golden.document:
        theirs[group["weight_decay"] == 0].update(group["params"])
    return [
        exact("names that decay only in one program", len(ours[False] ^ theirs[False]), 0),
        exact("names that are spared only in one program", len(ours[True] ^ theirs[True]), 0),
    ]


def load_branch(network, framework: Framework, manifest_path: Path, role: str, seed: int) -> None:
    """Give ``network`` the seeded weights of one branch, made by the authors' names."""
    shapes = Golden(manifest_path).document["state_dict"]
    branch_shapes = {name: shape for name, shape in shapes.items() if name.startswith(PREFIXES[role])}
    values = {name.removeprefix(PREFIXES[role]): array for name, array in seeded_state(branch_shapes, seed).items()}
    framework.module("checkpoint").load_network(network, CPCL.to_neutral(values, str(manifest_path)), role)


def manifest_of(golden: Golden) -> Path:
    """Return the manifest beside a file, or else the public one, of its data set and depth (those of VOC with ResNet-50)."""
    wanted = f"{golden.name}_".replace("logits_", "manifest_", 1)
    for folder in (golden.path.parent, DEFAULT):
        fitting = [file for file in folder.glob("manifest_*.json") if wanted.startswith(f"{file.stem}_")]
        if fitting:
            return max(fitting, key=lambda file: len(file.stem))
    return DEFAULT / "manifest_voc_r50.json"


@lru_cache(maxsize=2)
def built(manifest_path: Path, framework_name: str):
    """Return the network of a manifest, one per framework, its values still undefined."""
    shapes = Golden(manifest_path).document["state_dict"]
    classes = shapes["branch1.classifier.weight"][0]
    return load_framework(framework_name).build(network_config(shapes), classes)


def network_config(shapes: dict[str, list[int]]) -> NetworkConfig:
    """Return our preset with the depth that a state dict shows."""
    deep = "branch1.backbone.layer3.22.conv1.weight" in shapes
    return compose(f"voc/1323/cpcl{'_r101' if deep else ''}").network
