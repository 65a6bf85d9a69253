"""The estimate of a step's memory against a measured peak, and what the command says makes a step fit."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks.machine import Kept
from common.errors import CheckFailed, UserError
from common.experiment import compose
from common.paths import PROJECT
from experiments import fits
from experiments.fits import Memory, estimated, extent, gpus, published, report
from experiments.page_part import SCALE, part
from experiments.step_memory import Held, measure, small

METHODS = ("suponly", "mean_teacher", "unimatch", "uccl", "cpcl", "usrn", "pcr", "u2pl", "u2pl_ael")
LARGER, IMAGES = 129, 4


def peak_of(experiment, overrides, crop, images) -> int:
    """What a step with these crops and images holds at most."""
    return int(measure([small(experiment, overrides, crop, images)], images)[0].bytes.max())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_estimate_is_within_15_percent_of_a_larger_step(method):
    name, overrides = f"shapes/12/{method}", ["augment.crop=129"]
    config = compose(name, overrides)
    each = [2 * size // fits.batch(config)[0] for size in fits.batch(config)]
    step = estimated(name, overrides, sizes=(49, 65))
    peak = peak_of(name, overrides, LARGER, [count * IMAGES // 2 for count in each])
    estimate = step.gib(extent(config, LARGER), IMAGES) * fits.GIB
    assert abs(estimate / peak - 1) < 0.15
    assert step.gib(0, 0) * fits.GIB < 0.85 * peak, "what stays is nearly all: pixels go untested"


@pytest.mark.slow
@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "overrides", "side"),
    [
        ("voc/366/unimatch", ["network.encoder=resnet50"], 257),
        ("voc/662/cpcl", ["network.encoder=resnet50"], 256),
        ("cityscapes/744/u2pl", ["trainer.precision=bf16"], 193),
    ],
)
def test_the_estimate_holds_for_deep_networks(name, overrides, side):
    config = compose(name, overrides)
    step = estimated(name, overrides)
    peak = peak_of(name, overrides, side, [2, 2])
    assert abs(step.gib(extent(config, side), 2) * fits.GIB / peak - 1) < 0.15


def test_a_report_names_processes_accumulation_and_the_rate():
    config = compose("voc/366/unimatch")
    area = extent(config, config.augment.crop)
    steps = {"float32": Memory(((2 * fits.GIB, 3 * fits.GIB / area),))}
    text = "\n".join(report(config, steps, 24))
    assert "8 + 8 images of 321 px" in text and "4 GPUs, 2 + 2 images each" in text
    assert "    26.0    14.0     8.0     5.0" in text
    assert "2 processes, or trainer.accumulate=2" in text and "optimizer.lr stays" in text
    assert "loader.batch_labelled=7 loader.batch_unlabelled=7 optimizer.lr=0.000875" in text
    assert "the whole batch on one process" in "\n".join(report(config, steps, 32))
    assert "nothing, not even one labelled image at a time" in "\n".join(report(config, steps, 4))


def test_published_rows_and_their_gpus(monkeypatch):
    stated = {"voc/366/u2pl": 4, "cityscapes/186/u2pl_ael": 8, "voc/366/unimatch": 4, "voc/662/cpcl": 1}
    monkeypatch.setattr(fits, "known_experiments", lambda: [*stated, "shapes/12/u2pl", "camvid/1_8/u2pl"])
    assert published() == list(stated)
    assert {name: gpus(compose(name)) for name in stated} == stated


def test_the_moment_that_needs_most_at_the_larger_size_counts():
    held = [Held(np.array(sizes), np.array([])) for sizes in ([100, 140, 120], [100, 150, 180])]
    memory = Memory(fits.lines([10, 20], held))
    assert memory.lines == ((60, 6), (130, 1))
    assert memory.gib(10, 10) * fits.GIB == 660 and memory.gib(1, 1) * fits.GIB == 131


def test_a_step_that_allocates_more_often_is_compared_layer_by_layer():
    smaller = Held(np.array([10, 20, 90, 30, 10]), np.array([1, 3]))
    larger = Held(np.array([10, 40, 50, 50, 170, 60, 60, 10]), np.array([1, 5]))
    assert fits.lines([1, 2], [smaller, larger]) == ((10, 80),)
    with pytest.raises(CheckFailed, match="3 and 2 layers"):
        fits.lines([1, 2], [smaller, larger._replace(layers=np.array([1]))])


def test_the_table_has_one_line_for_rows_that_differ_in_the_split(monkeypatch, tmp_path):
    monkeypatch.setattr(fits, "published", lambda: ["voc/366/u2pl", "voc/732/u2pl", "voc/662/cpcl"])
    asked = []
    monkeypatch.setattr(fits, "estimated", lambda name, settings: asked.append(name) or Memory(((fits.GIB, 0),)))
    path = tmp_path / "kept.json"
    text = fits.table(Kept(path, "a command")).splitlines()
    assert (
        len(text) == 4 and "voc, u2pl (366, 732) | 513 | resnet101 | 16 + 16 | 4 | 4 | 4 + 4 | 1.0 | 1.0 |" in text[2]
    )
    first = len(asked)
    assert fits.table(Kept(path, "")).splitlines() == text and len(asked) == first == 4
    assert json.loads(path.read_text())["command"] == "a command"
    nothing = fits.table(Kept(None, ""), measure=False).splitlines()
    assert nothing[2].endswith("| - | - |") and len(asked) == first
    path.write_text("{}")
    with pytest.raises(UserError, match="holds no figures"):
        Kept(path, "")


@pytest.mark.slow
def test_the_page_has_what_is_kept():
    kept = max(PROJECT.glob("benchmarks/fits-*.json"))
    assert part(SCALE, "memory") == fits.table(Kept(kept, ""), measure=False)
