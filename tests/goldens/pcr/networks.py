"""Golden kinds of PCR's network: ``net_*`` (both stem pools), ``manifest_*``, ``network_framework_differences``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from common.checkpoints.layouts import DIALECTS
from common.config.schema import NetworkConfig
from common.experiment import compose
from common.networks.tensors import is_counter
from tests.goldens.frameworks import Framework, load_framework
from tests.goldens.golden import NETWORK, Check, Golden, close, exact, frobenius
from tests.goldens.seeded import seeded_state

DEFAULT = Path(__file__).parent
STAGES = {
    "stem": "stem", "maxpool": "pool", "layer1": "layer1", "layer2": "layer2", "layer3": "layer3", "layer4": "layer4",
    "aspp": "pyramid", "low_conv": "low", "head": "aspp", "rep_clf": "features",
}  # fmt: skip
"""Their names of the stages and ours; ``pyramid`` is what our ``aspp`` merges."""
OUTPUTS = {"pred": "logits", "proto": "prototype_logits", "aux": "aux"}
"""Their names of the outputs and ours."""
AUXILIARY_BIAS = "auxiliary.conv.bias"
NOISE = 1e-3
"""What two correct float32 programs of this depth may differ by, absolute, in any stage."""
WINNERS = 1e-3
"""Gate of the share of pixels and classes whose winning prototype differs."""
EVERY, CHANNELS = 4, 32
"""Rows and columns, and channels of the features, of which the files hold every so manieth."""

Outputs = dict[str, np.ndarray]


def net(golden: Golden, framework: Framework) -> list[Check]:
    """Outputs and stages with the pool of the authors' MindSpore program and with that of the PyTorch origin."""
    same, ceil = (outputs(golden.path, framework.name, pool) for pool in ("same", "ceil"))
    checks = [
        *compare("pred_mindspore", same["logits"], golden["pred_mindspore"]),
        *compare("pred_torch_same", same["logits"], golden["pred_torch_same"]),
        *compare("pred_torch_ceil", ceil["logits"], golden["pred_torch_ceil"]),
        flips("match", winners(golden, framework, ceil), golden["proto_match_torch_ceil"]),
        exact("pools_agree", agree(same["logits"], ceil["logits"]), golden["pools_agree"]),
    ]
    for computed, rule, first in (
        (same, "mindspore", "logits_image_0_mindspore"),
        (ceil, "torch_ceil", "logits_torch_ceil"),
    ):
        checks += compare(first, sampled(computed["full_size_logits"][0]), golden[first])
        checks += compare(f"proto_{rule}", sampled(computed["prototype_logits"]), golden[f"proto_{rule}"])
        checks += compare(f"rep_clf_{rule}", computed["features"][:, ::CHANNELS], golden[f"rep_clf_{rule}"])
        checks += stage_checks(golden, rule, computed)
        if f"aux_{rule}" in golden:
            ours = computed["aux_without_bias" if rule == "mindspore" else "aux"]
            checks += compare(f"aux_{rule}", ours, golden[f"aux_{rule}"])
    return checks


def compare(quantity: str, ours: np.ndarray, golden: np.ndarray) -> list[Check]:
    """Both gates of a network's output."""
    return [close(quantity, ours, golden, NETWORK), frobenius(quantity, ours, golden)]


def flips(quantity: str, ours: np.ndarray, golden: np.ndarray) -> Check:
    """Share of pixels and classes with another winner: a few may tie within rounding."""
    if ours.shape != golden.shape:
        return exact(quantity, ours, golden)
    return Check(f"{quantity} (share of flips)", float((ours != golden).mean()), WINNERS)


def sampled(maps: np.ndarray) -> np.ndarray:
    """Return every fourth row and column."""
    return maps[..., ::EVERY, ::EVERY]


def agree(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two outputs have one shape and differ by noise only."""
    return first.shape == second.shape and bool(np.abs(first - second).max() <= NOISE)


def stage_checks(golden: Golden, rule: str, computed: Outputs) -> list[Check]:
    """Shape and twelve entries, mean, deviation, least and largest value of every stage."""
    checks = []
    rows = zip(golden["stage_names"].tolist(), golden[f"stage_shapes_{rule}"], golden[f"stage_summary_{rule}"])
    for name, shape, summary in rows:
        stage = computed[STAGES[name]]
        entries = stage.ravel()[np.linspace(0, stage.size - 1, len(summary) - 4).astype(int)]
        ours = [stage.mean(dtype=np.float64), stage.std(dtype=np.float64), stage.min(), stage.max(), *entries]
        checks.append(exact(f"stage_shapes_{rule}: {name}", stage.shape, shape))
        checks.append(close(f"stage_summary_{rule}: {name}", ours, summary, NETWORK))
    return checks


def winners(golden: Golden, framework: Framework, computed: Outputs) -> np.ndarray:
    """Return the winning prototypes of every fourth pixel, by the function that training uses."""
    size = golden["input"].shape[2:]
    rows, columns = (np.arange(0, side, EVERY) for side in size)
    pixels = (rows[:, None] * size[1] + columns).ravel()
    network = built(manifest_of(golden.path), framework.name)
    pixel_features = framework.module("methods.pcr.prototypes").pixel_features
    features = pixel_features(framework.tensor(computed["features"]), pixels, size)
    _, match = framework.module("networks.prototype_head").prototype_logits(
        features, network.prototype_grid(), *network.prototype_rule
    )
    shape = (len(computed["features"]), len(rows), len(columns), -1)
    return framework.array(match).reshape(shape).transpose(0, 3, 1, 2)


@lru_cache(maxsize=64)
def outputs(path: Path, framework_name: str, pool: str) -> Outputs:
    """Return stages, auxiliary logits and full-size logits of a file's strictly loaded network with the stem pool ``pool``."""
    golden, framework, manifest_path = Golden(path), load_framework(framework_name), manifest_of(path)
    network, images = built(manifest_path, framework_name), golden["input"]
    load_seeded(manifest_path, golden.number("seed"), framework_name)
    network.encoder.pool = framework.module("networks.layers").StemPool(pool)
    seen = []
    hook = network.decoder.aspp.merge.register_forward_pre_hook(
        lambda _, inputs: seen.append(framework.array(inputs[0]))
    )
    computed = framework.predictor(network).stages(images)
    hook.remove()
    computed["pyramid"] = seen[-1]
    full_size = framework.module("resize").resize(framework.tensor(computed["logits"]), images.shape[2:])
    computed["full_size_logits"] = framework.array(full_size)
    if network.auxiliary is not None:
        computed["aux"] = framework.outputs(network, images)["aux"]
        load_seeded(manifest_path, golden.number("seed"), framework_name, without_bias=True)
        computed["aux_without_bias"] = framework.outputs(network, images)["aux"]
    return computed


def manifest(golden: Golden, framework: Framework) -> list[Check]:
    """Every name of the authors' layout is one of ours with the same shape, there and back, in the same learning-rate group."""
    document, dialect = golden.document, dialect_of(golden.path)
    theirs = {name: np.zeros(shape, np.bool_) for name, shape in document["parameters"]}
    neutral = dialect.to_neutral(theirs, golden.path.name)
    ours = framework.module("checkpoint").network_tensors(built(golden.path, framework.name))
    shapes = {name: array.shape for name, array in ours.items() if not is_counter(name)}
    their_shapes = {name: array.shape for name, array in neutral.items() if not is_counter(name)}
    back = dialect.from_neutral(neutral, golden.path.name)
    return [
        exact("names we lack or have too many", len(set(shapes) ^ set(their_shapes)), 0),
        exact("shapes that differ", sum(shapes.get(name) != shape for name, shape in their_shapes.items()), 0),
        exact("names that do not come back", len(set(back) ^ set(theirs)), 0),
        exact("prefix", dialect.module_prefix in document["checkpoint_wrapper"], True),
        exact("names in the encoder's group", encoders(shapes), encoders(theirs)),
    ]


def encoders(names) -> int:
    """Return how many names, counters aside, are an encoder's."""
    return sum(name.startswith("encoder.") for name in names if not is_counter(name))


def differences(golden: Golden, framework: Framework) -> list[Check]:
    """Where the two stem pools part: the same stages have another shape, the rest differs by what it differed there."""
    checks = []
    for name, pools in golden.document.items():
        path = next(
            (folder / f"{name}.npz" for folder in (golden.path.parent, DEFAULT) if (folder / f"{name}.npz").is_file()),
            None,
        )
        if path is None:
            raise FileNotFoundError(f"{golden.path} speaks of {name}.npz, which is not there")
        reference = outputs(path, framework.name, "same")
        for pool, stages in pools.items():
            computed = outputs(path, framework.name, pool)
            for stage, theirs in stages.items():
                ours = OUTPUTS.get(stage) or STAGES[stage]
                first = reference["aux_without_bias" if stage == "aux" else ours]
                checks.append(difference(f"{name}, {pool}: {stage}", first, computed[ours], theirs))
    return checks


def difference(quantity: str, same: np.ndarray, other: np.ndarray, theirs: str | float) -> Check:
    """Compare two maps of ours with what the file says of theirs: two shapes, or the largest difference."""
    if same.shape != other.shape:
        return exact(quantity, f"shape {same.shape[2:]} vs {other.shape[2:]}", theirs)
    if isinstance(theirs, str):
        return exact(quantity, "no difference of shape", theirs)
    return Check(quantity, abs(float(np.abs(same - other).max()) - theirs), NOISE)


def dialect_of(manifest_path: Path):
    """Return the layout whose names a manifest holds."""
    return DIALECTS["pcr-mindspore" if manifest_path.stem.endswith("_mindspore") else "pcr"]


def manifest_of(path: Path) -> Path:
    """Return the manifest beside a ``net_DATASET_NAMING_names_SIZE`` file, or else the public one."""
    _, dataset, naming, *_ = path.stem.split("_")
    name = f"manifest_{dataset}_{naming}.json"
    return path.with_name(name) if path.with_name(name).is_file() else DEFAULT / name


@lru_cache(maxsize=2)
def seeded_tensors(manifest_path: Path, seed: int) -> Outputs:
    """Return the seeded weights, made by the file's names, under our names."""
    state = seeded_state(dict(Golden(manifest_path).document["parameters"]), seed)
    return dialect_of(manifest_path).to_neutral(state, str(manifest_path))


def load_seeded(manifest_path: Path, seed: int, framework_name: str, without_bias: bool = False) -> None:
    """Load the seeded weights into the network of a manifest, without the bias that is lost in their MindSpore head (quirk 3)."""
    load, tensors = (
        load_framework(framework_name).module("checkpoint").load_network,
        seeded_tensors(manifest_path, seed),
    )
    if without_bias:
        tensors = tensors | {AUXILIARY_BIAS: np.zeros_like(tensors[AUXILIARY_BIAS])}
    load(built(manifest_path, framework_name), tensors, manifest_path.name)


@lru_cache(maxsize=2)
def built(manifest_path: Path, framework_name: str):
    """Return the network of a manifest, one per framework, its values still undefined."""
    shapes = dict(Golden(manifest_path).document["parameters"])
    classes = shapes["decoder.classifier.8.bias"][0]
    return load_framework(framework_name).build(network_config(shapes, classes), classes)


def network_config(shapes: dict[str, list[int]], classes: int) -> NetworkConfig:
    """Return our configuration: the preset ``pcr`` with the manifest's heads."""
    each = shapes["proto_net.proto_list"][0] // classes
    auxiliary = str("auxor.aux.0.weight" in shapes).lower()
    return compose("voc/366/pcr", (f"network.prototypes={each}", f"network.auxiliary={auxiliary}")).network
