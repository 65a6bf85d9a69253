"""Composition of experiments from ``configs/``, overrides, and the resolved form on file."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from common.config.layers import dataset_config
from common.config.schema import NetworkConfig
from common.config.strict import build
from common.config.yaml_files import read_yaml
from common.errors import UserError
from common.experiment import compose, dump, known_experiments, load
from common.paths import CONFIGS
from common.splits.registry import known_splits

VOC = ("92", "183", "366", "732", "1464", "662", "1323", "2646", "5291")
CITYSCAPES = ("186", "372", "744", "1488")
REPORTED = [f"voc/{split}" for split in VOC] + [f"cityscapes/{split}" for split in CITYSCAPES]
PUBLISHED = {
    "suponly": (45.77, 54.92, 65.88, 71.69, 72.50, 67.87, 71.55, 75.80, 77.13, 65.74, 72.53, 74.43, 77.83),
    "u2pl": (67.98, 69.15, 73.66, 76.16, 79.49, 77.21, 79.01, 79.30, 80.50, 70.30, 74.37, 76.47, 79.05),
}


@pytest.fixture
def configs(tmp_path):
    """A copy of ``configs/`` to be changed."""
    return shutil.copytree(CONFIGS, tmp_path / "configs")


@pytest.mark.parametrize("name", known_experiments())
def test_every_known_experiment_resolves_and_loads_back_to_itself(name, tmp_path):
    config = compose(name)
    assert config.name == name
    assert config.split.id in known_splits(config.dataset.name)
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load(tmp_path / "config.yaml") == config


def test_every_combination_the_paper_reports_is_known():
    known = known_experiments()
    assert {f"{split}/{method}" for split in REPORTED for method in PUBLISHED} <= set(known)
    assert {"shapes/12/u2pl", "shapes/all/suponly", "camvid/1_8/u2pl", "camvid/all/suponly"} <= set(known)
    assert len(known) == len(set(known))


@pytest.mark.parametrize("method", PUBLISHED)
def test_published_scores_are_the_readme_s(method):
    scores = [compose(f"{split}/{method}").reference.published_miou for split in REPORTED]
    assert tuple(scores) == PUBLISHED[method]


@pytest.mark.parametrize("name", REPORTED)
def test_the_list_behind_a_split_has_as_many_labels_as_its_name_says(name):
    config = compose(f"{name}/u2pl")
    assert known_splits(config.dataset.name)[config.split.id].labelled.count == int(name.partition("/")[2])


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("voc/366/u2pl", "trainer.epochs", 80),
        ("voc/366/u2pl", "optimizer.lr", 0.001),
        ("voc/366/u2pl", "optimizer.head_lr_times", 10.0),
        ("voc/366/u2pl", "loader.batch_labelled", 16),
        ("voc/366/u2pl", "loader.batch_unlabelled", 16),
        ("voc/366/u2pl", "augment.crop", 513),
        ("voc/366/u2pl", "augment.pad_label", 0),
        ("voc/366/u2pl", "criterion.type", "ce"),
        ("voc/366/u2pl", "method.contrastive.weight", 0.25),
        ("voc/366/u2pl", "method.sup_only_epochs", 1),
        ("voc/366/u2pl", "evaluation.protocol", "whole"),
        ("voc/366/u2pl", "network.representation", 256),
        ("voc/366/u2pl", "network.auxiliary", False),
        ("voc/366/suponly", "network.representation", 0),
        ("voc/366/suponly", "loader.batch_labelled", 16),
        ("voc/366/suponly", "loader.last_batch", "keep"),
        ("voc/366/suponly", "split.id", "366"),
        ("voc/662/u2pl", "split.id", "u2pl_662"),
        ("voc/cps_662/u2pl", "split.id", "cps_662"),
        ("voc/cps_662/u2pl", "reference.published_miou", None),
        ("cityscapes/744/u2pl", "split.id", "u2pl_744"),
        ("cityscapes/744/u2pl", "trainer.epochs", 200),
        ("cityscapes/744/u2pl", "loader.batch_labelled", 16),
        ("cityscapes/744/u2pl", "loader.batch_unlabelled", 16),
        ("cityscapes/744/u2pl", "optimizer.lr", 0.01),
        ("cityscapes/744/u2pl", "optimizer.head_lr_times", 1.0),
        ("cityscapes/744/u2pl", "optimizer.weight_decay", 5e-4),
        ("cityscapes/744/u2pl", "criterion.type", "ohem"),
        ("cityscapes/744/u2pl", "criterion.min_kept", 100_000),
        ("cityscapes/744/u2pl", "criterion.aux_weight", 0.4),
        ("cityscapes/744/u2pl", "method.contrastive.weight", 0.125),
        ("cityscapes/744/u2pl", "method.sup_only_epochs", 0),
        ("cityscapes/744/u2pl", "network.auxiliary", True),
        ("cityscapes/744/u2pl", "evaluation.size", 769),
        ("cityscapes/744/u2pl", "evaluation.stride", 513),
        ("cityscapes/744/u2pl", "evaluation.accumulate", "mean_logits"),
        ("camvid/1_8/suponly", "network.representation", 0),
        ("shapes/12/suponly", "network.representation", 0),
    ],
)
def test_authors_settings(name, key, value):
    setting = compose(name)
    for part in key.split("."):
        setting = getattr(setting, part)
    assert setting == value and type(setting) is type(value)


def test_later_files_win_and_only_where_they_say_so(configs):
    (configs / "methods" / "u2pl.yaml").write_text(
        "network: {preset: tiny, width: 16, representation: 4}\n"
        "optimizer: {lr: 0.1, momentum: 0.5, weight_decay: 0.3}\n"
        "evaluation: {protocol: resize, size: 65}\n"
        "split_lists: {shapes: {few: '12'}}\n"
        "datasets: {shapes: {optimizer: {lr: 0.2, momentum: 0.6}}}\n"
        "splits: {shapes/few: {optimizer: {lr: 0.3}}}\n"
    )
    config = compose("shapes/few/u2pl", ["network.representation=8"], configs)
    assert (config.optimizer.lr, config.optimizer.momentum, config.optimizer.weight_decay) == (0.3, 0.6, 0.3)
    assert (config.network.encoder, config.network.width, config.network.representation) == ("tiny", 16, 8)
    assert (config.split.id, config.evaluation.protocol, config.evaluation.size) == ("12", "resize", 65)
    assert known_experiments(configs).count("shapes/few/u2pl") == 1
    assert compose("shapes/all/u2pl", configs=configs).optimizer.lr == 0.2
    assert compose("camvid/all/u2pl", configs=configs).optimizer.lr == 0.1


def test_overrides_are_typed_and_reach_everything():
    overrides = [
        "optimizer.lr=1e-3",
        "trainer.device=cpu",
        "augment.resize_range=[0.8, 1.2]",
        "network.backbone_weights=null",
    ]
    config = compose("voc/366/u2pl", [*overrides, "method.preset=fixed", "network.preset=cpcl"])
    assert config.optimizer.lr == 1e-3 and config.augment.resize_range == (0.8, 1.2)
    assert config.method.preset == "fixed" and config.network.aspp == "sum" and config.network.backbone_weights is None
    assert dataclasses.replace(compose("voc/366/u2pl"), name="x") != config


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("voc/366", [], "expected DATASET/SPLIT/METHOD, for example voc/366/u2pl"),
        ("voc/../u2pl", [], "expected DATASET/SPLIT/METHOD"),
        ("voc/366/u2pl/x", [], "expected DATASET/SPLIT/METHOD"),
        ("vok/366/u2pl", [], "unknown data set 'vok'; did you mean 'voc'?"),
        ("voc/367/u2pl", [], "unknown split of voc '367'; did you mean '366'?"),
        ("cityscapes/cps_185/u2pl", [], "did you mean 'cps_186'?"),
        ("voc/366/u2lp", [], "unknown method 'u2lp'; did you mean 'u2pl'?"),
        (
            "voc/366/u2pl",
            ["trainer.epochs"],
            "command line: override 'trainer.epochs' is not of the form section.key=value",
        ),
        ("voc/366/u2pl", ["trainer..epochs=1"], "is not of the form section.key=value"),
        ("voc/366/u2pl", ["=1"], "is not of the form section.key=value"),
        ("voc/366/u2pl", ["trainer.epochs=[1"], "command line, trainer.epochs, line 1: not valid YAML"),
        ("voc/366/u2pl", ["trainer.epoch=1"], "command line: unknown key 'trainer.epoch'; did you mean 'epochs'?"),
        ("voc/366/u2pl", ["trianer.epochs=1"], "command line: unknown key 'trianer'; did you mean 'trainer'?"),
        ("voc/366/u2pl", ["trainer.epochs=many"], "command line: trainer.epochs = 'many' must be an integer"),
        ("voc/366/u2pl", ["trainer=3"], "command line: trainer must be a mapping, not 3"),
        ("voc/366/u2pl", ["trainer.epochs.x=3"], "command line: trainer.epochs = {'x': 3} must be an integer"),
        ("voc/366/u2pl", ["optimizer.lr=-1"], "command line: optimizer.lr = -1.0 is out of range"),
        ("voc/366/u2pl", ["network.preset=u3pl"], "command line: unknown network preset 'u3pl'; did you mean 'u2pl'?"),
        ("voc/366/u2pl", ["method.name=suponly"], "configs/methods/u2pl.yaml"),
        ("voc/366/u2pl", ["evaluation.protocol=slide"], "protocol slide needs evaluation.size"),
        ("voc/366/suponly", ["network.encoder=resnet19"], "did you mean 'resnet18'?"),
    ],
)
def test_a_mistake_is_one_line_with_a_way_out(name, overrides, message):
    with pytest.raises(UserError) as caught:
        compose(name, overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "methods/u2pl.yaml",
            "network: {preset: u2pl}\noptimizer: {lrr: 1}",
            "configs/methods/u2pl.yaml: unknown key 'optimizer.lrr'",
        ),
        ("methods/u2pl.yaml", "optimizer: {}", "configs/methods/u2pl.yaml: network.preset is missing"),
        ("methods/u2pl.yaml", "- a", "configs/methods/u2pl.yaml: must be a mapping"),
        ("methods/u2pl.yaml", "datasets: {voc: 3}", "configs/methods/u2pl.yaml: datasets.voc must be a mapping"),
        (
            "methods/u2pl.yaml",
            "network: {preset: u2pl}\ndatasets: {voc: {loader: {workers: -1}}}",
            "configs/methods/u2pl.yaml (datasets: voc): loader.workers = -1 is out of range",
        ),
        (
            "datasets/voc.yaml",
            "dataset: {name: voc, layout: voc}",
            "configs/datasets/voc.yaml: dataset.classes is missing",
        ),
        (
            "networks/u2pl.yaml",
            "encoder: resnet101\nstep: deep",
            "configs/networks/u2pl.yaml: unknown key 'network.step'",
        ),
        ("networks/u2pl.yaml", "a: [", "configs/networks/u2pl.yaml, line 1: not valid YAML"),
        ("splits.yaml", "voc: {train: 3}", "configs/splits.yaml: "),
    ],
)
def test_a_mistake_in_a_file_names_the_file(configs, file, text, message):
    (configs / file).write_text(text)
    with pytest.raises(UserError) as caught:
        compose("voc/366/u2pl", configs=configs)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_data_set_of_the_user_s_own(configs, tmp_path, monkeypatch):
    (configs / "datasets" / "mine.yaml").write_text("dataset: {name: mine, layout: voc, classes: [no, yes]}")
    assert dataset_config("mine", configs).classes == ("no", "yes")
    assert compose("mine/all/u2pl", configs=configs).network.encoder == "resnet101"
    with pytest.raises(UserError, match="unknown split of mine 'ten'"):
        compose("mine/ten/u2pl", configs=configs)
    (tmp_path / "lists" / "mine" / "ten").mkdir(parents=True)
    (tmp_path / "lists" / "mine" / "ten" / "labeled.txt").write_text("a\n")
    config = compose("mine/ten/u2pl", [f"split.folder={tmp_path / 'lists'}"], configs)
    assert config.split.id == "ten"


def test_a_loaded_file_is_checked_as_strictly(tmp_path):
    path = tmp_path / "config.yaml"
    text = dump(compose("shapes/12/u2pl"))
    for before, after, message in (
        ("momentum", "momentun", "did you mean 'momentum'?"),
        ("name: u2pl", "name: u3pl", "method.name = 'u3pl' is not one of "),
    ):
        path.write_text(text.replace(before, after))
        with pytest.raises(UserError, match="config.yaml: ") as caught:
            load(path)
        assert message in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("preset", "change", "classes", "parameters"),
    [
        ("u2pl", {}, 21, 64_459_989),
        ("u2pl", {"representation": 0}, 21, 62_623_189),
        ("u2pl", {"auxiliary": True}, 19, 66_824_422),
        ("pcr", {}, 21, 62_623_189),
        ("cpcl", {}, 21, 40_475_957),
        ("cpcl", {"encoder": "resnet101"}, 21, 59_468_085),
    ],
)
def test_network_presets_have_the_authors_number_of_parameters(preset, change, classes, parameters):
    """Numbers counted in the authors' networks."""
    torch = pytest.importorskip("torch")
    from torch_impl.networks.deeplab import DeepLab

    values = read_yaml(CONFIGS / "networks" / f"{preset}.yaml") | change
    with torch.device("meta"):
        network = DeepLab(build(NetworkConfig, values, {}), classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("path", sorted((CONFIGS / "networks").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_network_preset_is_valid(path):
    assert build(NetworkConfig, read_yaml(path), {}).encoder
