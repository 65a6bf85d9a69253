"""Presets: resolved once, when a configuration is composed or read, in two words and two older ones."""

from __future__ import annotations

import dataclasses

import pytest

from common.config.yaml_files import read_yaml
from common.errors import UserError
from common.experiment import compose, dump, known_experiments, load
from common.methods import SETTINGS
from common.methods.presets import resolved

WITH_PRESETS = [name for name, settings in SETTINGS.items() if settings.presets]


def leaves(values: dict) -> dict:
    """Every value by its dotted key."""
    flat = {}
    for key, value in values.items():
        flat |= {f"{key}.{k}": v for k, v in leaves(value).items()} if isinstance(value, dict) else {key: value}
    return flat


def test_methods_with_presets():
    assert WITH_PRESETS == ["fixmatch", "u2pl", "u2pl_ael", "uccl", "unimatch"]


@pytest.mark.parametrize("name", WITH_PRESETS)
@pytest.mark.parametrize("preset", ["authors", "fixed"])
def test_both_presets_name_every_switch_and_nothing_else(name, preset):
    settings = SETTINGS[name](preset=preset)
    switches = {key for key, value in leaves(dataclasses.asdict(settings)).items() if value == "auto"}
    switches |= {"sbu.conf_thresh"} if name == "uccl" else set()
    assert set(leaves(settings.presets[preset])) == switches != set()
    final = resolved(settings)
    assert not {"auto", None} & set(map(str, leaves(dataclasses.asdict(final)).values()))
    assert resolved(final) == final


@pytest.mark.parametrize("name", WITH_PRESETS)
def test_the_presets_differ_in_every_switch(name):
    other = {"conf_thresh": 0.5} if name == "uccl" else {}
    authors, fixed = (
        leaves(dataclasses.asdict(resolved(SETTINGS[name](preset=preset, **other)))) for preset in ("authors", "fixed")
    )
    assert {key for key in authors if authors[key] != fixed[key]} == {
        "preset",
        *leaves(SETTINGS[name].presets["fixed"]),
    }


@pytest.mark.parametrize(("older", "word"), [("released", "authors"), ("clean", "fixed")])
def test_older_words_are_read_and_the_usual_ones_written(older, word, tmp_path):
    config = compose("voc/366/uccl", [f"method.preset={older}"])
    assert config == compose("voc/366/uccl", [f"method.preset={word}"])
    (tmp_path / "config.yaml").write_text(dump(config))
    assert read_yaml(tmp_path / "config.yaml")["method"]["preset"] == word


@pytest.mark.parametrize("name", [name for name in known_experiments() if name.startswith(("shapes/12/", "voc/366/"))])
def test_a_run_s_file_states_every_switch(name, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump(compose(name)))
    assert "auto" not in leaves(read_yaml(path)["method"]).values()
    assert load(path).method == compose(name).method


def test_a_preset_over_a_file_that_states_every_switch_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump(compose("voc/366/u2pl")))
    assert load(path, ["method.ema_first_epoch=copy_once"]).method.ema_first_epoch == "copy_once"
    with pytest.raises(UserError, match="states every switch that method.preset stands for"):
        load(path, ["method.preset=fixed"])
