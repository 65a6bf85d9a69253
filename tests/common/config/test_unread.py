"""An option belongs to who reads it: where nothing does, it is refused, unless only an earlier layer or an old file has it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from common.config.strict import to_plain
from common.config.yaml_files import read_yaml
from common.errors import UserError
from common.experiment import compose, dump, load
from common.paths import CONFIGS

UNREAD = [
    ("voc/366/u2pl", "augment.base_size=400"),
    ("voc/366/u2pl", "augment.labelled_jitter=true"),
    ("voc/366/u2pl", "augment.scales=[1.0]"),
    ("voc/366/u2pl", "augment.crop_off_by_one=false"),
    ("voc/366/u2pl", "augment.paste_resize_range=[0.5,1]"),
    ("voc/366/u2pl", "network.prototype_temperature=3"),
    ("voc/366/u2pl", "network.subclasses=7"),
    ("voc/366/u2pl", "loader.labelled_replay=cached"),
    ("voc/366/u2pl", "loader.last_batch=keep"),
    ("voc/366/u2pl", "loader.tail=per_access"),
    ("voc/366/u2pl", "optimizer.counted_steps=3"),
    ("voc/366/u2pl", "dataset.size=128"),
    ("voc/366/u2pl", "dataset.images=[3,4]"),
    ("voc/1323/cpcl", "augment.resize_range=[0.5,1.5]"),
    ("voc/366/uccl", "criterion.aux_weight=3"),
    ("voc/366/uccl", "evaluation.stride=3"),
    ("voc/331/usrn", "augment.pad_label=0"),
    ("voc/366/suponly", "loader.batch_unlabelled=99"),
    ("shapes/12/u2pl", "dataset.image_dir=foo"),
    ("voc/366/u2pl", "network.prototypes=4"),
    ("voc/366/u2pl", "criterion.min_kept=5"),
    ("voc/366/u2pl", "criterion.aux_weight=0.4"),
    ("voc/366/u2pl", "trainer.snapshot_after_part=2"),
    ("voc/366/suponly", "network.representation=256"),
    ("voc/1323/cpcl", "network.auxiliary=true"),
    ("voc/1323/cpcl", "network.aspp_dropout=0.1"),
    ("voc/1323/cpcl", "evaluation.pad_label=0"),
    ("voc/1323/cpcl", "augment.strong_hue=0"),
    ("voc/331/usrn_baseline", "augment.unlabelled_resize_range=[1,2]"),
    ("voc/331/usrn_baseline", "loader.batch_unlabelled=8"),
    ("cityscapes/744/u2pl", "dataset.image_dir=foo"),
    ("shapes/12/cpcl", "loader.tail=per_access"),
    ("shapes/12/u2pl", "dataset.root=foo"),
    ("shapes/12/u2pl", "network.stem=deep"),
]


@pytest.mark.parametrize(("name", "override"), UNREAD)
def test_an_option_that_nothing_reads_is_one_line_with_the_nearest_key(name, override):
    key = override.partition("=")[0]
    with pytest.raises(UserError) as caught:
        compose(name, [override])
    message = str(caught.value)
    assert message.startswith(f"command line: unknown key {key!r} where ") and "\n" not in message
    assert "; did you mean '" in message
    valid = message.rpartition("(valid: ")[2].rstrip(")").split(", ")
    assert valid and key.partition(".")[2] not in valid


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("voc/366/uccl", ["evaluation.stride=3"], "where evaluation.protocol is whole"),
        ("voc/366/u2pl", ["dataset.size=128"], "where dataset.layout is voc"),
        ("voc/366/u2pl", ["criterion.thresh=0.5"], "where criterion.type is not set"),
        ("voc/366/pcr", ["network.prototypes=0", "network.prototype_norm=torch"], "; did you mean 'prototypes'?"),
        ("voc/366/u2pl", ["augment.base_size=400"], "where method.name is u2pl"),
        ("voc/366/u2pl", ["network.subclasses=7"], "where method.name is u2pl"),
        ("voc/366/u2pl", ["augment.crap=400"], "unknown key 'augment.crap'; did you mean 'crop'?"),
        (
            "voc/331/usrn",
            ["optimizer.lr_counter=authors", "optimizer.poly_lag=1"],
            "where optimizer.lr_counter is authors",
        ),
        ("voc/366/uccl", ["evaluation.protocol=slide", "evaluation.size=9"], "protocol slide needs evaluation.stride"),
        ("voc/366/uccl", ["evaluation.protocol=silde"], "evaluation.protocol = 'silde' is not one of whole, slide"),
        ("voc/366/uccl", ["dataset.layout=[voc]"], "dataset.layout = ['voc'] is not one of voc, folders"),
        ("voc/366/uccl", ["dataset.layuot=voc"], "unknown key 'dataset.layuot'; did you mean 'layout'?"),
    ],
)
def test_the_message_says_what_decides(name, overrides, message):
    with pytest.raises(UserError) as caught:
        compose(name, overrides)
    assert message in str(caught.value) and str(caught.value).startswith("command line: ")


def test_a_later_choice_leaves_behind_what_only_the_earlier_one_reads():
    config = compose("cityscapes/744/u2pl", ["evaluation.protocol=whole", "criterion.type=ce", "network.encoder=tiny"])
    assert not hasattr(config.evaluation, "size")
    assert config.criterion.min_kept_per_image == 0 and config.network.backbone_weights is None
    assert compose("voc/366/u2pl", ["dataset.layout=voc_cps"]).dataset.train_list.endswith("train_aug.txt")
    assert compose("voc/1323/cpcl", ["trainer.snapshot_every=null"]).trainer.snapshot_after_part == 0
    assert compose("voc/366/uccl", ["evaluation.protocol=slide", "evaluation.size=9", "evaluation.stride=3"])
    assert compose("voc/366/suponly").network.representation == 0


def test_the_command_line_is_one_layer():
    for overrides in (
        ["evaluation.stride=3", "evaluation.protocol=whole"],
        ["evaluation.protocol=whole", "evaluation.stride=3"],
    ):
        with pytest.raises(
            UserError, match="command line: unknown key 'evaluation.stride' where evaluation.protocol is whole"
        ):
            compose("cityscapes/744/u2pl", overrides)


def test_a_data_set_s_file_may_speak_to_some_methods_only(tmp_path):
    """Its options are dropped where the method has none of that name; a name that no method has is a mistake."""
    configs = shutil.copytree(CONFIGS, tmp_path / "configs")
    path = configs / "datasets" / "shapes.yaml"
    path.write_text(path.read_text().replace("augment:\n", "augment:\n  base_size: 80\n"))
    assert compose("shapes/12/uccl", configs=configs).augment.crop == 64
    assert compose("shapes/12/usrn", ["augment.base_size=72"], configs).augment.base_size == 72
    path.write_text(path.read_text().replace("base_size", "bsae_size"))
    with pytest.raises(UserError, match="configs/datasets/shapes.yaml: unknown key 'augment.bsae_size'"):
        compose("shapes/12/uccl", configs=configs)


@pytest.mark.parametrize("name", ["cityscapes/744/u2pl", "shapes/12/pcr", "voc/366/uccl", "voc/1323/cpcl"])
def test_a_run_s_file_holds_what_is_read_and_is_read_as_strictly(name, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump(compose(name)))
    assert read_yaml(path)["format"] == 2
    assert load(path) == compose(name)
    assert not hasattr(load(path, ["evaluation.protocol=whole"]).evaluation, "size")
    path.write_text(path.read_text().replace("criterion:\n", "criterion:\n  thrsh: 1\n"))
    with pytest.raises(UserError, match="unknown key 'criterion.thrsh'; did you mean 'thresh'|; did you mean 'type'"):
        load(path)
    path.write_text("format: 3\n")
    with pytest.raises(UserError, match="format 3, but this program reads 1 and 2; use a newer program"):
        load(path)


def test_a_run_s_file_may_not_hold_what_nothing_reads(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump(compose("voc/366/u2pl")).replace("criterion:\n", "criterion:\n  min_kept: 7\n"))
    with pytest.raises(UserError, match="config.yaml: unknown key 'criterion.min_kept' where criterion.type is ce"):
        load(path)


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).with_name("format_1").glob("*.yaml")), ids=lambda path: path.stem
)
def test_files_of_format_1_still_load_without_what_nothing_reads(path, tmp_path):
    """Files that this project wrote when every method accepted every option, one of them with options that nothing read."""
    config = load(path)
    new, old = flat(to_plain(config)), flat(read_yaml(path))
    assert config.name.replace("/", "_") == path.stem
    kept = {key for key in new if key in old}
    assert len(kept) > 70
    different = {key for key in kept if new[key] != old[key] and old[key] not in ("auto", None)}
    unread = {"criterion.min_kept_per_image", "network.prototype_temperature", "optimizer.counted_steps"}
    assert different - unread == ({"method.preset"} if old.get("method.preset") == "released" else set())
    again = tmp_path / "config.yaml"
    again.write_text(dump(config))
    assert load(again) == config


def flat(values: dict, where: str = "") -> dict:
    """Dotted keys and their values."""
    result = {}
    for key, value in values.items():
        result |= flat(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return result


def test_groups_of_the_published_rows_and_of_older_files(tmp_path):
    groups = {
        name: compose(name).trainer.groups for name in ("voc/1464/u2pl", "cityscapes/744/u2pl_ael", "voc/92/unimatch")
    }
    assert groups == {"voc/1464/u2pl": 4, "cityscapes/744/u2pl_ael": 8, "voc/92/unimatch": 4}
    assert compose("voc/662/cpcl").trainer.groups == 1 and compose("voc/u2pl_662/unimatch").trainer.groups == 2
    assert compose("shapes/12/u2pl").trainer.groups is None
    path = tmp_path / "config.yaml"
    path.write_text(dump(compose("shapes/12/u2pl")).replace(" groups: null,", ""))
    assert load(path).trainer.groups == 1
    path.write_text(dump(compose("shapes/12/u2pl", ["trainer.groups=4"])))
    assert load(path).trainer.groups == 4
    old = Path(__file__).with_name("format_1") / "cityscapes_744_u2pl.yaml"
    assert load(old).trainer.groups == 8 and load(old, ["trainer.groups=2"]).trainer.groups == 2


def test_a_file_of_format_1_is_still_checked(tmp_path):
    text = (Path(__file__).with_name("format_1") / "shapes_12_pcr.yaml").read_text()
    path = tmp_path / "config.yaml"
    path.write_text(text.replace(" momentum:", " momentun:"))
    with pytest.raises(UserError, match="unknown key 'optimizer.momentun'; did you mean 'momentum'"):
        load(path)
    path.write_text(text)
    with pytest.raises(UserError, match="command line: unknown key 'evaluation.stride' where"):
        load(path, ["evaluation.stride=3"])
