"""A packaged model: one folder with the network for every runtime, its configuration, its result and a description.

``converters/package.py`` makes it; evaluation and prediction take it in place of a file.
"""

from __future__ import annotations

from pathlib import Path

from common.config.schema import ExperimentConfig
from common.errors import UserError
from common.experiment import compose, load
from common.paths import at_home

WEIGHTS, GRAPH, CONFIG, RESULT, CARD = "model.safetensors", "model.onnx", "config.yaml", "result.json", "README.md"


def is_model_folder(path: Path) -> bool:
    """Whether ``path`` is a folder that says what it was configured by."""
    return (path / CONFIG).is_file()


def model_file(path: Path, runtime: str) -> Path:
    """Return the file of a packaged model that ``runtime`` runs; a path that is no folder is returned as it is.

    Raises :class:`UserError` for a folder without such a file.
    """
    if not path.is_dir():
        return path
    for name in (GRAPH, WEIGHTS) if runtime == "onnx" else (WEIGHTS,):
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path} is a folder without {WEIGHTS}; name a file, or a folder that converters.package has made")


def experiment_of(name: str, overrides: list[str]) -> ExperimentConfig:
    """Return the configuration of an experiment's name, or that in a packaged model, with ``overrides``."""
    folder = at_home(name)
    return load(folder / CONFIG, overrides) if is_model_folder(folder) else compose(name, overrides)
