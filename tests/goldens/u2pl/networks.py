"""Golden kinds of U2PL's network: ``net_*`` (outputs for seeded weights) and ``manifest_*`` (names and shapes)."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np

from common.checkpoints.layouts import DIALECTS
from common.config.schema import NetworkConfig
from common.experiment import compose
from common.networks.tensors import is_counter
from tests.goldens.frameworks import Framework, load_framework
from tests.goldens.golden import FLIPS, NETWORK, Check, Golden, close, exact, frobenius
from tests.goldens.seeded import seeded_state

DEFAULT = Path(__file__).parent


def net(golden: Golden, framework: Framework) -> list[Check]:
    """Outputs, class ids, and mean absolute values stage by stage, of a strictly loaded network."""
    path = manifest_of(golden.path)
    network = built(path, framework.name)
    framework.module("checkpoint").load_network(network, seeded_tensors(path, golden.number("seed")), path.name)
    outputs = framework.outputs(network, golden["input"])
    stages_by_name = framework.predictor(network).stages(golden["input"])
    stages = [stages_by_name[f"layer{index}"] for index in (1, 2, 3, 4)]
    means = [np.abs(stage).mean(dtype=np.float64) for stage in stages]
    full_size = framework.module("resize").resize(
        framework.tensor(outputs["logits"]), golden["label_full_size"].shape[1:]
    )
    class_ids = framework.array(full_size).argmax(1)
    checks = [
        exact("stage_shape", [stage.shape for stage in stages], golden["stage_shape"]),
        close("stage_abs_mean", means, golden["stage_abs_mean"], NETWORK),
        *compare("pred", outputs["logits"], golden["pred"]),
        Check("label_full_size (share of flips)", float((class_ids != golden["label_full_size"]).mean()), FLIPS),
    ]
    if "aux" in golden:
        checks += compare("aux", outputs["aux"], golden["aux"])
    if "rep" in golden:
        mean = np.abs(outputs["representation"]).mean(dtype=np.float64)
        checks += compare("rep", outputs["representation"][:, golden["rep_channels"]], golden["rep"])
        checks.append(close("rep_abs_mean", mean, golden["rep_abs_mean"], NETWORK))
    return checks


def compare(quantity: str, ours: np.ndarray, golden: np.ndarray) -> list[Check]:
    """Both gates of a network's output."""
    return [close(quantity, ours, golden, NETWORK), frobenius(quantity, ours, golden)]


def manifest(golden: Golden, framework: Framework) -> list[Check]:
    """Every name of the authors' state dict is one of ours with the same shape, one to one, and in the same group."""
    document, dialect = golden.document, DIALECTS["u2pl"]
    tensors = framework.module("checkpoint").network_tensors(built(golden.path, framework.name))
    ours = {name: list(array.shape) for name, array in tensors.items() if not is_counter(name)}
    theirs = {name: shape for name, shape in document["state_dict"].items() if not is_counter(name)}
    neutral = {name: dialect.neutral_name(name) for name in document["state_dict"]}
    parameters = sum(math.prod(shape) for name, shape in ours.items() if ".running_" not in name)
    return [
        exact("names without a counterpart", sum(name is None for name in neutral.values()), 0),
        exact(
            "names that do not come back", sum(dialect.foreign_name(n or "") != name for name, n in neutral.items()), 0
        ),
        exact("names we lack or have too many", len(set(ours) ^ {neutral[name] for name in theirs}), 0),
        exact("shapes that differ", sum(ours.get(neutral[name]) != shape for name, shape in theirs.items()), 0),
        exact("n_parameters", parameters, document["n_parameters"]),
        exact("checkpoint_key_prefix", dialect.module_prefix, document["checkpoint_key_prefix"]),
        exact(
            "names in the other learning-rate group",
            sum(_group(name) != _group(n or "") for name, n in neutral.items()),
            0,
        ),
    ]


def _group(name: str) -> bool:
    return name.startswith("encoder.")


def manifest_of(path: Path) -> Path:
    """Return the manifest beside a ``net_VARIANT_SIZE`` file, or else the public one of that variant."""
    for folder in (path.parent, DEFAULT):
        fitting = [
            file for file in folder.glob("manifest_*.json") if f"{path.stem}_".startswith(f"net_{file.stem[9:]}_")
        ]
        if fitting:
            return max(fitting, key=lambda file: len(file.stem))
    raise FileNotFoundError(f"no manifest_VARIANT.json fits {path}")


@lru_cache(maxsize=1)
def seeded_tensors(manifest_path: Path, seed: int) -> dict[str, np.ndarray]:
    """Return the seeded weights, made by the authors' names, under our names."""
    state = seeded_state(Golden(manifest_path).document["state_dict"], seed)
    return DIALECTS["u2pl"].to_neutral(state, str(manifest_path))


@lru_cache(maxsize=2)
def built(manifest_path: Path, framework_name: str):
    """Return the network of a manifest's variant, one per framework, its values still undefined."""
    document = Golden(manifest_path).document
    return load_framework(framework_name).build(network_config(document), document["variant"]["num_classes"])


def network_config(document: dict) -> NetworkConfig:
    """Return our configuration of a manifest's variant: the preset ``u2pl`` with its depth and heads."""
    variant, shapes = document["variant"], document["state_dict"]
    width = shapes["decoder.representation.8.weight"][0] if variant["representation_head"] else 0
    overrides = (
        f"network.encoder=resnet{variant['depth']}",
        f"network.representation={width}",
        f"network.auxiliary={str(variant['aux_head']).lower()}",
    )
    method = "u2pl" if width else "suponly"
    return compose(f"voc/1464/{method}", overrides).network
