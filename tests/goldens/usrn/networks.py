"""Golden kinds of USRN's networks: ``net_*``, ``manifest_*``, ``test_loading``."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np

from common.checkpoints.layouts import DIALECTS
from common.config.schema import NetworkConfig
from common.experiment import compose
from common.models.stored_network import class_branch
from common.networks.tensors import is_counter
from tests.goldens.frameworks import Framework, load_framework
from tests.goldens.golden import NETWORK, Check, Golden, close, exact, frobenius
from tests.goldens.seeded import seeded_state
from tests.goldens.usrn.data import repeats

DEFAULT = Path(__file__).parent
DIALECT = DIALECTS["usrn"]
RESNET50_ENTRIES = 374
"""Entries of the single-branch network with ResNet-50."""
DEEP = 1e-3
"""Gate of outputs of ResNet-101: largest difference over the largest entry (the recorded noise of so deep a network)."""


def net(golden: Golden, framework: Framework) -> list[Check]:
    """Logits of both branches, and mean and deviation stage by stage, of a strictly loaded network."""
    path = manifest_of(golden.path)
    shapes = Golden(path).document["shapes"]
    network = loaded(path, framework.name, golden.number("hp_seed"))
    gate = DEEP if any(".layer3.22." in name for name in shapes) else NETWORK
    checks = []
    for repeat in repeats(golden, "in_image"):
        image = golden[f"in_image_{repeat}"]
        outputs, predictor = framework.outputs(network, image), framework.predictor(network)
        full = framework.module("resize").resize(framework.tensor(outputs["logits"]), image.shape[2:])
        pairs = {"out_low": outputs["logits"], "out_logits_every_third": framework.array(full)[:, :, ::3, ::3]}
        if f"out_low_sub_{repeat}" in golden:
            pairs["out_low_sub"] = outputs["subclass_logits"]
        for quantity, ours in pairs.items():
            theirs = golden[f"{quantity}_{repeat}"]
            checks += [
                close(f"{quantity}_{repeat}", ours, theirs, gate),
                frobenius(f"{quantity}_{repeat}", ours, theirs),
            ]
        names = golden[f"out_stage_names_{repeat}"].tolist()
        stages = stage_outputs(network, framework, image, predictor.stages(image), "backbone.layer2_aux" in names)
        named = [stages[name] for name in names]
        means = [stage.mean(dtype=np.float64) for stage in named]
        deviations = [stage.std(dtype=np.float64, ddof=1) for stage in named]
        checks += [
            exact(f"out_stage_shapes_{repeat}", [stage.shape for stage in named], golden[f"out_stage_shapes_{repeat}"]),
            close(f"out_stage_mean_{repeat}", means, golden[f"out_stage_mean_{repeat}"], gate),
            close(f"out_stage_std_{repeat}", deviations, golden[f"out_stage_std_{repeat}"], gate),
        ]
    return checks


def stage_outputs(network, framework: Framework, image: np.ndarray, ours: dict, two: bool) -> dict[str, np.ndarray]:
    """Return our stages by the authors' names; ``two``: those of the subclass branch as well."""
    stages = {"backbone.maxpool": ours["pool"], "aspp": ours["aspp"], "decoder": ours["decoder"]}
    stages |= {f"backbone.layer{index}": ours[f"layer{index}"] for index in (1, 2, 3, 4)}
    if two:
        low = x = framework.tensor(ours["layer1"])
        for index in (2, 3, 4):
            x = getattr(network.encoder, f"layer{index}_subclass")(x)
            stages[f"backbone.layer{index}_aux"] = framework.array(x)
        stages["aspp_SubCls"] = framework.array(network.decoder_subclass.aspp(x))
        features = network.classifier_subclass.features(network.decoder_subclass(low, x))
        stages["decoder_SubCls"] = framework.array(features)
    return stages


def manifest(golden: Golden, framework: Framework) -> list[Check]:
    """Every name of the authors' state dict is one of ours with the same shape, one to one, and in the same group."""
    document = golden.document
    tensors = framework.module("checkpoint").network_tensors(built(golden.path, framework.name))
    ours = {name: list(array.shape) for name, array in tensors.items() if not is_counter(name)}
    theirs = {name: shape for name, shape in document["shapes"].items() if not is_counter(name)}
    neutral = {name: DIALECT.neutral_name(name) for name in document["shapes"]}
    parameters = sum(math.prod(shape) for name, shape in ours.items() if ".running_" not in name)
    groups = document["optimizer_groups"]
    slow = {neutral[name] for name in groups["backbone"]}
    trained = {name for name in ours if ".running_" not in name}
    layout = document["checkpoint"]
    return [
        exact("names without a counterpart", sum(name is None for name in neutral.values()), 0),
        exact(
            "names that do not come back", sum(DIALECT.foreign_name(n or "") != name for name, n in neutral.items()), 0
        ),
        exact("names we lack or have too many", len(set(ours) ^ {neutral[name] for name in theirs}), 0),
        exact("shapes that differ", sum(ours.get(neutral[name]) != shape for name, shape in theirs.items()), 0),
        exact("parameters", parameters, document["parameters"]),
        exact("slow group", len(slow ^ {name for name in trained if name.startswith("encoder.")}), 0),
        exact("fast group", len({neutral[n] for n in groups["other"]} ^ (trained - slow)), 0),
        exact("key_prefix", DIALECT.module_prefix, layout["key_prefix"]),
        exact("networks in the file", [slot.key in layout["top_level"] for slot in DIALECT.slots], [True]),
    ]


def test_loading(golden: Golden, framework: Framework) -> list[Check]:
    """A two-branch state gives the class branch's network the same logits, and leaves out exactly the subclass branch."""
    document = golden.document
    depth = 101 if document["kept"] > RESNET50_ENTRIES else 50
    path = DEFAULT / f"manifest_usrn_r{depth}_331.json"
    shapes = Golden(path).document["shapes"]
    state = seeded_state(shapes, 0)
    neutral = DIALECT.to_neutral(state, path.name)
    config, kept = class_branch(network_config(shapes), neutral)
    left = [DIALECT.foreign_name(name) for name in neutral if name not in kept]
    used = {next((p for p in document["left_out_prefixes"] if n.startswith(f"{p}.")), "none") for n in left}
    network = framework.build(config, classes(shapes))
    tensors = framework.module("checkpoint").network_tensors(network)
    missing = [name for name in tensors if name not in kept]
    framework.module("checkpoint").load_network(network, kept, "class branch")
    image = np.random.default_rng(0).standard_normal((1, 3, 33, 33)).astype(np.float32)
    both = framework.outputs(loaded(path, framework.name, 0), image)["logits"]
    alone = framework.outputs(network, image)["logits"]
    return [
        exact("kept", len(kept), document["kept"]),
        exact("left_out", len(left), document["left_out"]),
        exact("missing", len(missing), document["missing"]),
        exact("left_out_prefixes", sorted(used), sorted(document["left_out_prefixes"])),
        exact("logits_of_both_models_equal", np.array_equal(both, alone), document["logits_of_both_models_equal"]),
    ]


def manifest_of(path: Path) -> Path:
    """Return the manifest of a ``net_VARIANT`` file, beside it or among the public ones."""
    for folder in (path.parent, DEFAULT):
        candidates = [
            file for file in folder.glob("manifest_*.json") if f"{path.stem}_".startswith(f"net_{file.stem[9:]}_")
        ]
        if candidates:
            return max(candidates, key=lambda file: len(file.stem))
    raise FileNotFoundError(f"no manifest_VARIANT.json fits {path}")


def classes(shapes: dict) -> int:
    """Return the number of classes."""
    return shapes["classifier.1.weight"][0]


def network_config(shapes: dict) -> NetworkConfig:
    """Return our configuration of a state dict's network: the preset ``usrn`` with its depth and subclasses."""
    depth = 101 if any(".layer3.22." in name for name in shapes) else 50
    subclasses = shapes.get("classifier_SubCls.1.weight", [0])[0]
    overrides = [f"network.encoder=resnet{depth}", f"network.subclasses={subclasses}"]
    return compose("voc_mini/1_8/usrn", ["network.preset=usrn", *overrides]).network


@lru_cache(maxsize=2)
def built(manifest_path: Path, framework_name: str):
    """Return the network of a manifest, its values still undefined."""
    shapes = Golden(manifest_path).document["shapes"]
    return load_framework(framework_name).build(network_config(shapes), classes(shapes))


def loaded(manifest_path: Path, framework_name: str, seed: int):
    """Return the network of a manifest with its seeded weights."""
    state = seeded_state(Golden(manifest_path).document["shapes"], seed)
    network = built(manifest_path, framework_name)
    checkpoint = load_framework(framework_name).module("checkpoint")
    checkpoint.load_network(network, DIALECT.to_neutral(state, manifest_path.name), manifest_path.name)
    return network
