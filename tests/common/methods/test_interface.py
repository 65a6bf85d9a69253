"""A method is found by its settings alone, and what its settings leave out is as the base class has it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from common.config.yaml_files import read_yaml
from common.methods import SETTINGS, implementation
from common.methods.interface import MethodSettings
from common.methods.presets import resolved
from common.paths import CONFIGS
from tests.places import PROJECT


@pytest.mark.parametrize("framework", ["torch_impl", "mindspore_impl"])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_method_has_its_class_in_both_frameworks(name, framework):
    file, cls = implementation(name)
    path = (PROJECT / framework / "methods" / file.replace(".", "/")).with_suffix(".py")
    assert cls in [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]


def test_every_file_of_configs_is_of_a_method():
    files = {path.stem: read_yaml(path) for path in (CONFIGS / "methods").glob("*.yaml")}
    assert {name for name, values in files.items() if "base" not in values} == set(SETTINGS)
    assert all(values.get("base", name) in files for name, values in files.items())


def test_settings_that_are_no_method_are_left_out():
    below = [cls for cls in _subclasses(MethodSettings) if cls.__module__.startswith("common.methods.")]
    assert set(SETTINGS.values()) < set(below)
    assert all(cls.__name__.lower() == f"{name.replace('_', '')}settings" for name, cls in SETTINGS.items())
    assert all(Path(cls.__module__.replace(".", "/")).parts[:2] == ("common", "methods") for cls in SETTINGS.values())


def _subclasses(cls: type) -> list[type]:
    return [below for child in cls.__subclasses__() for below in (child, *_subclasses(child))]


def test_what_settings_leave_out():
    settings = MethodSettings(name="some")
    assert resolved(settings) is settings and settings.warnings(2) == []
    assert (settings.branches, settings.passed_alone) == (1, ())
    assert settings.steps_per_epoch(100, 8) is None and settings.round_steps(100, 8) == 12
    assert settings.complete("config", "split", "torch") == "config" and settings.check(None) is None
