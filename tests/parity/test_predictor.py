"""The MindSpore predictor against the PyTorch one, and the memory of an evaluation over many image sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ms = pytest.importorskip("mindspore")

import mindspore_impl.predictor as ms_predictor  # noqa: E402
from common.errors import UserError  # noqa: E402
from common.prediction.sliding import windows  # noqa: E402
from mindspore_impl.device import choose_device  # noqa: E402
from mindspore_impl.predictor import MindSporePredictor  # noqa: E402
from tests.parity.pairs import RELATIVE_ERROR, images, network_config, pair, relative_error  # noqa: E402
from tests.processes import python  # noqa: E402
from torch_impl.predictor import TorchPredictor  # noqa: E402


@pytest.fixture(scope="module")
def networks():
    return pair(network_config("tiny", head_dropout=(0.3, 0.3)))


@pytest.fixture
def predictors(networks):
    return TorchPredictor(networks[0].train()), MindSporePredictor(networks[1].set_train())


def agree(class_ids: np.ndarray, expected: np.ndarray) -> bool:
    """Class ids have the same type and shape and differ in at most the gate's share of pixels (one in a small image)."""
    assert class_ids.dtype == expected.dtype == np.uint8 and class_ids.shape == expected.shape
    assert len(np.unique(expected)) > 1
    return (class_ids != expected).sum() <= max(1, RELATIVE_ERROR * expected.size)


def test_logits_and_class_ids(predictors):
    first, second = predictors
    x = images(2, 49, 65)
    expected, logits = first.logits(x, (98, 131)), second.logits(x, (98, 131))
    assert logits.dtype == np.float32 and relative_error(logits, expected) <= RELATIVE_ERROR
    assert agree(second.class_ids(x, (98, 131)), first.class_ids(x, (98, 131)))
    assert second.classes == first.classes == 7


def test_results_outlive_the_memory_they_came_from(predictors):
    x = images(1, 40, 40)
    logits, stages = predictors[1].logits(x, (40, 40)), predictors[1].stages(x)
    kept = logits.copy(), stages["logits"].copy()
    for size in range(41, 60):
        predictors[1].class_ids(images(1, size, size), (size, size))
    assert np.array_equal(logits, kept[0]) and np.array_equal(stages["logits"], kept[1])


@pytest.mark.parametrize("accumulate", ["mean_logits", "sum_logits", "sum_softmax"])
@pytest.mark.parametrize("rule", ["shift_back", "cut_off"])
def test_sliding(predictors, monkeypatch, accumulate, rule):
    monkeypatch.setattr(ms_predictor, "COMPILED_SHAPES", 0)
    x = images(1, 50, 61)
    where = windows(50, 61, 40, 26, rule)
    expected = predictors[0].sliding_class_ids(x, where, accumulate)
    assert agree(predictors[1].sliding_class_ids(x, where, accumulate), expected)
    assert not agree(predictors[1].sliding_class_ids(x, windows(50, 61, 39, 26, rule), accumulate), expected)


def test_stages(predictors):
    x = images(1, 49, 65)
    expected, stages = predictors[0].stages(x), predictors[1].stages(x)
    assert list(stages) == list(expected)
    assert max(relative_error(stages[name], expected[name]) for name in expected) <= RELATIVE_ERROR


def test_evaluation_changes_no_statistics(predictors):
    network = predictors[1].network
    before = network.encoder.bn1.moving_mean.asnumpy().copy()
    for _ in range(ms_predictor.COMPILE_AFTER + 2):
        network.set_train()
        predictors[1].class_ids(images(2, 33, 33), (33, 33))
    assert np.array_equal(before, network.encoder.bn1.moving_mean.asnumpy())


@pytest.fixture
def passes(predictors, monkeypatch):
    """Run passes of one size each; return the sizes that were compiled and after how many passes memory was recycled."""
    compiled, recycled = [], []
    monkeypatch.setattr(ms_predictor, "forward", lambda network, x: compiled.append(x.shape[2]) or network(x))
    monkeypatch.setattr(ms, "ms_memory_recycle", lambda: recycled.append(1))

    def run(sizes) -> tuple[list[int], int]:
        for size in sizes:
            predictors[1].class_ids(images(1, size, size), (size, size))
        return compiled, len(recycled)

    return run


def test_few_shapes_are_compiled_once_repeated_and_stay_so(passes):
    compiled, recycled = passes([33, 34] * (ms_predictor.COMPILE_AFTER + 20))
    assert compiled == [33, 34] * 20
    assert recycled == 0  # it would throw the graphs away, and compiling them again takes longer than many passes


def test_many_shapes_are_not_compiled_and_their_memory_is_returned(passes, monkeypatch):
    monkeypatch.setattr(ms_predictor, "COMPILED_SHAPES", 2)
    compiled, recycled = passes([*range(33, 53)] + [33] * (ms_predictor.COMPILE_AFTER + 2))
    assert compiled == [] and recycled == 2


def test_compiled_and_plain_passes_agree(predictors):
    x = images(1, 36, 44)
    results = [predictors[1].logits(x, (36, 44)) for _ in range(ms_predictor.COMPILE_AFTER + 2)]
    assert max(relative_error(result, results[0]) for result in results) < 1e-6


MEMORY = """
import mindspore_impl.predictor as module
from tests.parity.pairs import images, network_config, pair

def growth(sizes):
    before = resident()
    for index in sizes:
        size = (60 + index % 16 * 9, 64 + index)
        predictor.class_ids(images(1, *size), size)
    return (resident() - before) / len(sizes)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

predictor = module.MindSporePredictor(pair(network_config("tiny"))[1])
growth(range(60))
recycled = growth(range(60, 300))
module.RECYCLE_AFTER = 10**9
print(recycled, growth(range(300, 330)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a process in /proc")
def test_memory_is_flat_over_300_image_sizes():
    """Memory that is kept for every new size is what it would grow by without recycling."""
    recycled, kept = map(float, python(MEMORY).split())
    assert recycled < kept / 5


def test_runtime(predictors):
    assert predictors[1].runtime.name == "mindspore"
    assert predictors[1].runtime.version == ms.__version__
    assert predictors[1].runtime.device == choose_device("auto") == choose_device("cpu") == "CPU"
    with pytest.raises(UserError, match="not on Ascend"):
        MindSporePredictor(predictors[1].network, "Ascend")
