"""The demo from training to report, made short; and a converted file with one wrong weight, which parity must find."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

for package in ("torch", "mindspore", "onnxruntime", "onnxscript"):
    pytest.importorskip(package)

from common.checkpoints.checkpoint import read, write  # noqa: E402
from common.command_line import run_command  # noqa: E402
from common.runtimes import RUNTIMES  # noqa: E402
from converters.parity import Gates, compare, evaluate_in, format_report, locate  # noqa: E402
from experiments import demo, picture  # noqa: E402

pytestmark = [pytest.mark.onnx, pytest.mark.mindspore, pytest.mark.slow]

EXPERIMENT = "shapes/12/u2pl"
SHORT = ["trainer.epochs=3", "trainer.iterations_per_epoch=2", "trainer.evaluate_every=3"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the whole demo once and return its folder and what it printed."""
    out = tmp_path_factory.mktemp("demo")
    code = run_command(demo.main, [*SHORT, "--seeds", "1", "2", "--out", str(out)])
    return out, code


def test_demo_trains_converts_and_compares(finished):
    out, code = finished
    assert code == 0
    outcome = json.loads((out / "parity" / "parity.json").read_text())
    assert outcome["failures"] == [] and list(outcome["baselines"]) == ["sup-only (torch)"]
    assert {row["images"] for row in outcome["scores"].values()} == {100}
    scores = [row["miou_percent"] for row in outcome["scores"].values()]
    assert max(scores) - min(scores) <= 0.05
    table = format_report(outcome)
    assert [line.split()[0] for line in table.splitlines()[1:5]] == ["sup-only", "torch", "mindspore", "onnx"]
    assert "sup-only (torch)" in (out / "parity" / "report.html").read_text()


def test_the_demo_shows_mean_and_spread(finished):
    page = (finished[0] / "demo.md").read_text()
    assert "| u2pl | PyTorch | 2 of 2 |" in page and "python -m experiments.demo" in page


@pytest.mark.parametrize(
    ("u2pl", "holds"), [([70.0, 71.0, 69.0], True), ([66.0, 67.5, 66.5], False), ([80.0, 81.0, 60.0], False)]
)
def test_the_claim_needs_the_mean_and_the_worst_run(u2pl, holds):
    scores = {"suponly": [66.7, 66.9, 67.1], "u2pl": u2pl}
    assert demo.gains(scores) is holds
    assert f"gain {sum(u2pl) / 3 - 66.9:+.2f} points" in demo.gain(scores)


def test_the_picture_of_the_demo(finished, tmp_path):
    assert run_command(picture.main, ["--demo", str(finished[0]), "--out", str(tmp_path / "shapes.png")]) == 0
    with Image.open(tmp_path / "shapes.png") as image:
        assert image.width == 6 * 128 + 5 * 8
    assert run_command(picture.main, ["--demo", str(tmp_path), "--out", str(tmp_path / "none.png")]) == 2


def test_one_wrong_weight_is_found_and_its_stage_named(finished, tmp_path):
    out = finished[0] / "parity"
    models = {name: out / f"model{runtime.writes}" for name, runtime in RUNTIMES.items()}
    checkpoint = read(models["mindspore"])
    weight = checkpoint.networks["model"]["encoder.layer2.conv1.weight"]
    weight *= np.float32(1.5)
    models["mindspore"] = tmp_path / "broken.ckpt"
    write(models["mindspore"], checkpoint)
    dump = ["--dump", str(out / "mindspore"), "--dump-logits", "4"]
    evaluate_in("mindspore", EXPERIMENT, SHORT, models["mindspore"], out / "mindspore", dump)
    failures = compare(out, Gates())["failures"]
    assert any(failure.startswith("torch and mindspore: relative_error") for failure in failures)
    assert not any(failure.startswith("torch and onnx") for failure in failures)
    differences = locate(models, tmp_path, Gates().relative_error)
    assert differences["mindspore"]["stage"] == "layer2" and differences["onnx"] is None
