"""The gates of the parity tool, each with a case that must turn it red; the report page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.reports import charts
from common.runs.run_folder import RunFolder
from common.runtimes import RUNTIMES
from converters import parity
from converters.parity import Gates, compare, flips, format_report, relative_error
from converters.report import parity_report
from converters.stages import first_difference

SIZE = 64
NAMES = ("val_0000", "val_0001")


def dump(folder: Path, logits: dict[str, np.ndarray], miou_percent: float) -> None:
    (folder / "logits").mkdir(parents=True)
    (folder / "ids").mkdir()
    for name, values in logits.items():
        np.save(folder / "logits" / f"{name}.npy", values)
        Image.fromarray(values.argmax(0).astype(np.uint8)).save(folder / "ids" / f"{name}.png")
    result = {
        "miou_percent": miou_percent,
        "seconds": 2.0,
        "images": 2,
        "runtime": {"name": folder.name, "version": "1", "device": "cpu"},
    }
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def dumps(tmp_path):
    """Dumps of three runtimes whose logits differ by float32 noise; ``disturb`` changes one of them."""

    def make(disturb: str | None = None, noise: float = 0.0, miou_percent: float = 50.0) -> Path:
        rng = np.random.default_rng(0)
        exact = {name: rng.standard_normal((6, SIZE, SIZE)) for name in NAMES}
        dump(tmp_path / "float64", exact, 50.0)
        for runtime in RUNTIMES:
            scale = noise if runtime == disturb else 1e-6
            logits = {n: (v + scale * rng.standard_normal(v.shape)).astype(np.float32) for n, v in exact.items()}
            dump(tmp_path / runtime, logits, miou_percent if runtime == disturb else 50.0)
        return tmp_path

    return make


def test_noise_of_float32_passes(dumps):
    outcome = compare(dumps(), Gates())
    assert outcome["failures"] == []
    assert all(0 < pair["relative_error"] < 1e-5 for pair in outcome["pairs"])
    assert "mindspore" in format_report(outcome)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_disturbed_logits_turn_it_red(dumps, runtime):
    failures = compare(dumps(runtime, noise=1e-2), Gates())["failures"]
    assert any(runtime in failure and "relative_error" in failure for failure in failures)
    assert any(runtime in failure and "flips" in failure for failure in failures)


def test_error_beyond_that_of_pytorch_turns_it_red(dumps):
    failures = compare(dumps("onnx", noise=1e-5), Gates())["failures"]
    assert failures == ["onnx: error against float64 is 10.0 times PyTorch's own"]


def test_other_score_turns_it_red(dumps):
    failures = compare(dumps("mindspore", noise=1e-6, miou_percent=50.1), Gates())["failures"]
    assert len(failures) == 2 and all("miou_points" in failure for failure in failures)


def test_nan_logits_turn_it_red(dumps):
    folder = dumps()
    path = folder / "onnx" / "logits" / f"{NAMES[0]}.npy"
    values = np.load(path)
    values[0, 0, 0] = np.nan
    np.save(path, values)
    assert any("onnx" in failure for failure in compare(folder, Gates())["failures"])


def test_nothing_to_compare_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no predictions"):
        flips(tmp_path, tmp_path)
    with pytest.raises(UserError, match="no logits"):
        relative_error(tmp_path, tmp_path)


def test_first_difference_names_the_stage():
    reference = {"stem": np.ones((1, 2)), "layer1": np.ones((1, 3)), "logits": np.ones((1, 4))}
    other = {name: value.copy() for name, value in reference.items()}
    assert first_difference(reference, other, 2e-4) is None
    other["layer1"] = other["layer1"] * 1.01
    other["logits"] = other["logits"] * 2
    assert first_difference(reference, other, 2e-4)["stage"] == "layer1"
    other["stem"] = np.ones((1, 5))
    assert first_difference(reference, other, 2e-4) == {
        "stage": "stem",
        "shapes": [[1, 2], [1, 5]],
        "relative_error": None,
    }


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """The log of a training run."""
    run = RunFolder(tmp_path / "run")
    run.log(kind="train", iteration=1, epoch=0, losses={"sup": 1.0, "unsup": 0.5})
    run.log(kind="train", iteration=2, epoch=0, losses={"sup": 0.8, "unsup": 0.4})
    run.log(kind="evaluation", iteration=2, epoch=0, miou=0.5)
    return run


def test_report_is_one_self_contained_page(dumps, run):
    pytest.importorskip("matplotlib")
    folder = dumps()
    outcome = compare(folder, Gates())
    outcome["baselines"] = {"sup-only": outcome["scores"]["torch"]}
    path = parity_report(folder, outcome, "shapes/12/u2pl", run_folder=run.path)
    text = path.read_text()
    assert "http://www.w3.org/2000/svg" in text and text.count("http") == text.count("http://www.w3.org/2000/svg")
    assert text.count("data:image/png;base64") == len(NAMES) * 7
    assert "All gates hold" in text and "sup-only" in text and "validation mIoU" in text


def test_report_leaves_curves_out_where_they_cannot_be_drawn(dumps, run, monkeypatch):
    folder = dumps()
    monkeypatch.setattr(charts, "available", lambda: False)
    text = parity_report(folder, compare(folder, Gates()), "shapes/12/u2pl", run_folder=run.path).read_text()
    assert "charts need matplotlib" in text and "<svg" not in text


def test_report_shows_a_failure(dumps):
    folder = dumps("onnx", noise=1e-2)
    text = parity_report(folder, compare(folder, Gates()), "shapes/12/u2pl").read_text()
    assert "Gates failed" in text and "All gates hold" not in text


def test_no_more_logits_are_compared_than_images(monkeypatch, tmp_path):
    """A limit below the number of logits holds for float64 too, which would otherwise dump images that nobody else has."""
    limits = []

    def evaluate(runtime, experiment, overrides, model, out, options):
        limits.append([options[options.index(name) + 1] for name in ("--dump-logits", "--limit")])

    monkeypatch.setattr(parity, "convert_all", lambda *_: dict.fromkeys(RUNTIMES))
    monkeypatch.setattr(parity, "evaluate_in", evaluate)
    monkeypatch.setattr(parity, "compare", lambda *_: {"failures": [], "scores": {}, "pairs": []})
    monkeypatch.setattr("converters.report.parity_report", lambda *_, **__: None)
    checkpoint = tmp_path / "best.pth"
    checkpoint.touch()
    parity.run_parity("shapes/12/suponly", [], checkpoint, tmp_path / "out", limit=2)
    assert limits == [["2", "2"]] * 4
