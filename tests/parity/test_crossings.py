"""A training step in MindSpore stays on the device: what else crosses to the host than ``EXCLUDED.md`` names is a fault."""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import mindspore as ms
import numpy as np
import pytest
from mindspore import ops

from mindspore_impl import losses
from tests.parity.step_parity import StepParity
from tests.parity.steps import clock, in_mindspore
from tests.places import PROJECT

Crossings = Counter[tuple[str, int]]
"""How often so many values of a type have crossed."""


@contextmanager
def counted() -> Iterator[Crossings]:
    """Count by type and number of values what MindSpore hands to Python and NumPy meanwhile."""
    crossings, busy = Counter(), []

    def counting(original):
        def counted_call(self, *arguments, **named):
            if not busy:
                crossings[str(self.dtype), self.size] += 1
            busy.append(True)
            try:
                return original(self, *arguments, **named)
            finally:
                busy.pop()

        return counted_call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("asnumpy", "numpy", "tolist", "item", "_item", "get_bytes"):
            patch.setattr(ms.Tensor, name, counting(getattr(ms.Tensor, name)))
        yield crossings


def allowed(method: str, **sizes: int) -> Crossings:
    """Return what may cross in a step of ``method`` by the list in ``EXCLUDED.md``; ``sizes``: values of its letters."""
    result: Crossings = Counter()
    for line in (PROJECT / "mindspore_impl" / "EXCLUDED.md").read_text().splitlines():
        entry = re.fullmatch(r"- ([a-z0-9_, ]+): (\d+) x ([\dA-Z*]+) of (\w+), .+", line)
        if entry and ({"all", method} & set(entry[1].split(", "))):
            values = math.prod(sizes[factor] if factor in sizes else int(factor) for factor in entry[3].split("*"))
            result[entry[4], values] += int(entry[2])
    return result


def too_much(crossings: Crossings, table: Crossings) -> list[str]:
    """Return what crossed beyond the table, whose numbers of values are the most; single values of any type count together."""
    faults, left = [], Counter(table)
    for (dtype, number), times in sorted(crossings.items(), key=lambda entry: -entry[0][1]):
        for _ in range(times if number > 1 else 0):
            room = min(
                (size for (kind, size), rest in left.items() if kind == dtype and size >= number and rest), default=0
            )
            if room:
                left[dtype, room] -= 1
            else:
                faults.append(f"{number} of {dtype}")
    scalars = sum(times for (_, number), times in crossings.items() if number == 1)
    return faults + [f"{scalars} scalars"] * (scalars > table["any", 1])


TESTERS = {
    "suponly": "u2pl", "mean_teacher": "mean_teacher", "fixmatch": "uccl", "unimatch": "uccl", "uccl": "uccl", "cpcl": "cpcl",
    "cps with CutMix": "cpcl", "cps without": "cpcl", "usrn": "usrn", "u2pl": "u2pl", "u2pl_ael": "u2pl_ael", "pcr": "pcr",
}  # fmt: skip
"""The file of the tests of whole steps that has batches and settings of each method."""


QUICK = ("mean_teacher",)
"""The others are left to the slow tests."""


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in TESTERS])
def case(request):
    """Return a method's configuration, in which its first steps do all that later ones do, and the tester with its batches."""
    module = importlib.import_module(f"tests.parity.methods.test_{TESTERS[request.param]}")
    tester = next(
        value for name, value in vars(module).items() if name.startswith("Test") and value is not StepParity
    )()
    config = tester.METHODS[request.param]
    if hasattr(config.method, "sup_only_epochs"):
        config = dataclasses.replace(config, method=dataclasses.replace(config.method, sup_only_epochs=0))
    return config, tester


def crossed(config, tester: StepParity) -> Crossings:
    """Return what crosses in the second step of a method."""
    method, batches = in_mindspore(config), tester.batches(2)
    tester.before_epoch(method, clock(0))
    method.step(batches[0], clock(0))
    with counted() as crossings:
        method.step(batches[1], clock(1))
    return crossings


def test_a_step_stays_on_the_device(case):
    config, tester = case
    images = tester.batches(1)[0]["labelled"]["image"]
    sizes = dict(zip("BHW", (len(images), *images.shape[2:]))) | {"K": len(config.dataset.classes)}
    assert too_much(crossed(config, tester), allowed(config.method.name, **sizes)) == []


@pytest.mark.parametrize("way", ["asnumpy", "tolist", "__array__"])
def test_one_map_fetched_is_noticed(way: str, monkeypatch):
    """The logits of the supervised loss, put back where they were computed on the host."""
    tester = importlib.import_module("tests.parity.methods.test_mean_teacher").TestMeanTeacher()
    original = losses.pixel_losses

    def fetched(logits, labels):
        array = getattr(ops.stop_gradient(logits), way)()
        return original(logits, labels) + 0 * float(np.sum(array))

    monkeypatch.setattr(losses, "pixel_losses", fetched)
    faults = too_much(crossed(tester.CONFIG, tester), allowed("mean_teacher", K=6))
    assert faults == [f"{2 * 6 * 33 * 33} of Float32"]
