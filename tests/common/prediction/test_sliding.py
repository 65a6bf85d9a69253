"""Window layouts, and the window protocols against the authors' programs with stand-in networks."""

from collections.abc import Callable

import numpy as np
import pytest

from common.arrays import Box
from common.config.schema import ExperimentConfig
from common.errors import UserError
from common.evaluation.evaluate import evaluate, predict
from common.images.resize import resize_bilinear
from common.prediction.predictor import UsedRuntime
from common.prediction.sliding import windows
from tests.builders import experiment
from tests.places import SHARED

GOLDEN = SHARED / "golden"
IDENTITY = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def golden(name: str) -> dict[str, np.ndarray]:
    path = GOLDEN / name
    if not path.is_file():
        pytest.skip(f"optional real data beside the checkout is absent: {path}")
    with np.load(path) as arrays:
        return dict(arrays)


class StandIn:
    """A predictor over a NumPy function ``[B,3,H,W] -> [B,K,h,w]``; keeps the joined logits of its last call."""

    runtime = UsedRuntime(name="numpy", version=np.__version__, device="cpu")

    def __init__(self, network: Callable[[np.ndarray], np.ndarray], classes: int) -> None:
        self.network, self.classes = network, classes

    def logits(self, images, size):
        return resize_bilinear(self.network(images).astype(np.float32), size)

    def class_ids(self, images, size):
        self.joined = self.logits(images, size)
        return self.joined.argmax(1).astype(np.uint8)

    def sliding_class_ids(self, image, windows, accumulate):
        total = np.zeros((1, self.classes, *image.shape[2:]), dtype=np.float32)
        visits = np.zeros(image.shape[2:], dtype=np.float32)
        for window in windows:
            area = (..., slice(window.top, window.bottom), slice(window.left, window.right))
            logits = self.logits(image[area], image[area].shape[2:])
            if accumulate == "sum_softmax":
                logits = np.exp(logits - logits.max(1, keepdims=True))
                logits /= logits.sum(1, keepdims=True)
            total[area] += logits
            visits[area] += 1
        self.joined = total / visits if accumulate == "mean_logits" else total
        return self.joined[0].argmax(0).astype(np.uint8)


class OneByOne:
    """A data set over arrays: images ``[N,H,W,3]``, labels ``[N,H,W]``."""

    name = "arrays"
    ignored_classes = frozenset()

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: int) -> None:
        self.images, self.labels = images, labels
        self.classes = tuple(f"class{index}" for index in range(classes))

    def image(self, identifier: str) -> np.ndarray:
        return self.images[int(identifier)]

    def label(self, identifier: str) -> np.ndarray:
        return self.labels[int(identifier)]


def convolution(images: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int = 1) -> np.ndarray:
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bchwij,kcij->bkhw", patches, weight, optimize=True) + bias[:, None, None]


def unscaled(augment: dict = IDENTITY, **evaluation) -> ExperimentConfig:
    return experiment(("a", "b"), dataset={"name": "arrays"}, augment=augment, evaluation=evaluation)


def starts(layout: list[Box]) -> tuple[list[int], list[int]]:
    return sorted({window.top for window in layout}), sorted({window.left for window in layout})


def same_where_clear(ids: np.ndarray, logits: np.ndarray) -> bool:
    """Whether ``ids`` is the arg-max of ``logits`` ``[K,H,W]`` wherever the best class leads by more than rounding."""
    first, second = -np.sort(-logits, axis=0)[:2]
    clear = first - second > 1e-4
    assert clear.mean() > 0.99
    return bool((ids == logits.argmax(0))[clear].all())


def test_cityscapes_layout_of_u2pl():
    layout = windows(1024, 2048, 769, 513, "shift_back")
    assert len(layout) == 8
    assert starts(layout) == ([0, 255], [0, 513, 1026, 1279])
    assert all(window.bottom - window.top == window.right - window.left == 769 for window in layout)


def test_cityscapes_layouts_of_uccl():
    layout = windows(1024, 2048, 612, 408, "cut_off")
    assert len(layout) == 18
    assert starts(layout) == ([0, 408, 816], [0, 408, 816, 1224, 1632, 2040])
    assert (layout[-1].bottom - layout[-1].top, layout[-1].right - layout[-1].left) == (208, 8)
    assert len(windows(1024, 2048, 801, 534, "cut_off")) == 8


def test_windows_run_row_by_row():
    assert windows(4, 6, 4, 2, "shift_back") == [
        Box(top=0, left=0, bottom=4, right=4),
        Box(top=0, left=2, bottom=4, right=6),
    ]


@pytest.mark.parametrize("rule", ["shift_back", "cut_off"])
@pytest.mark.parametrize(("height", "width"), [(33, 33), (34, 71), (55, 99), (40, 1000)])
def test_every_pixel_is_covered_and_no_window_leaves_the_image(rule, height, width):
    visits = np.zeros((height, width), dtype=int)
    for window in windows(height, width, 33, 22, rule):
        assert 0 <= window.top < window.bottom <= height and 0 <= window.left < window.right <= width
        visits[window.top : window.bottom, window.left : window.right] += 1
    assert visits.min() >= 1


def test_bad_sizes_are_refused():
    with pytest.raises(UserError, match="stride = 30 leaves gaps"):
        windows(50, 50, 20, 30, "shift_back")
    with pytest.raises(UserError, match="at least 1"):
        windows(50, 50, 20, 0, "cut_off")
    with pytest.raises(ValueError, match="pad it first"):
        windows(19, 50, 20, 10, "shift_back")


@pytest.mark.parametrize("case", ["a", "b_smaller_than_crop", "c_rescaled"])
def test_u2pl_golden(case):
    arrays = golden(f"u2pl/sliding_{case}.npz")
    weight, bias = arrays["standin_weight"], arrays["standin_bias"]
    predictor = StandIn(lambda images: convolution(images, weight, bias, stride=4), len(bias))
    image, size, stride = arrays["image"][0].transpose(1, 2, 0), int(arrays["crop"]), int(arrays["stride"])
    ids = predict(predictor, image, unscaled(protocol="slide", size=size, stride=stride))
    height, width = image.shape[:2]
    top, left = max(size - height, 0) // 2, max(size - width, 0) // 2
    logits = predictor.joined[..., top : top + height, left : left + width]
    out_size = tuple(arrays["out_size"])
    np.testing.assert_allclose(resize_bilinear(logits, out_size)[0], arrays["logits"], atol=2e-5)
    if out_size == (height, width):
        assert same_where_clear(ids, arrays["logits"])


def test_u2pl_golden_whole():
    arrays = golden("u2pl/sliding_a.npz")
    weight, bias = arrays["standin_weight"], arrays["standin_bias"]
    predictor = StandIn(lambda images: convolution(images, weight, bias, stride=4), len(bias))
    ids = predict(predictor, arrays["image"][0].transpose(1, 2, 0), unscaled())
    np.testing.assert_allclose(predictor.joined[0], arrays["logits_whole"], atol=2e-5)
    assert same_where_clear(ids, arrays["logits_whole"])
    assert not same_where_clear(ids, arrays["logits"])


def test_u2pl_golden_notices_the_other_window_rule():
    arrays = golden("u2pl/sliding_a.npz")
    weight, bias = arrays["standin_weight"], arrays["standin_bias"]
    predictor = StandIn(lambda images: convolution(images, weight, bias, stride=4), len(bias))
    config = unscaled(protocol="slide", size=33, stride=22, window_rule="cut_off")
    predict(predictor, arrays["image"][0].transpose(1, 2, 0), config)
    assert np.abs(predictor.joined[0] - arrays["logits"]).max() > 1e-2


@pytest.mark.parametrize("case", ["windows", "short_image_pad"])
def test_cpcl_golden(case):
    arrays = golden(f"cpcl/slide/{case}.npz")
    weight, bias = arrays["conv_weight"], arrays["conv_bias"]
    predictor = StandIn(lambda images: convolution(images, weight, bias), len(bias))
    size = int(arrays["crop_size"])
    stride = int(np.ceil(size * arrays["stride_rate"]))
    config = unscaled({}, protocol="slide", size=size, stride=stride, accumulate="sum_logits")
    ids = predict(predictor, arrays["image_rgb"], config)
    height, width = ids.shape
    top, left = max(size - height, 0) // 2, max(size - width, 0) // 2
    joined = predictor.joined[0, :, top : top + height, left : left + width]
    np.testing.assert_allclose(joined.transpose(1, 2, 0), arrays["score_sum"], atol=1e-4)
    assert same_where_clear(ids, arrays["score_sum"].transpose(2, 0, 1))


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize(
    ("mode", "settings", "sides"),
    [
        ("original", {}, ()),
        (
            "sliding_window",
            {"protocol": "slide", "window_rule": "cut_off", "accumulate": "sum_softmax"},
            ("size", "stride"),
        ),
        ("center_crop", {"protocol": "center_crop"}, ("size",)),
    ],
)
def test_uccl_golden(mode, settings, sides):
    arrays = golden("uccl/evaluate.npz")
    lengths = {"size": int(arrays["crop_size"]), "stride": int(arrays["stride"])}
    classes = int(arrays["nclass"])

    def network(images: np.ndarray) -> np.ndarray:
        hidden = convolution(images, arrays["param_c1_weight"], arrays["param_c1_bias"])
        return convolution(np.maximum(hidden, 0), arrays["param_c2_weight"], arrays["param_c2_bias"])

    dataset = OneByOne(arrays["images"].transpose(0, 2, 3, 1), arrays["masks"], classes)
    predictions = []
    outcome = evaluate(
        StandIn(network, classes),
        dataset,
        ("0", "1"),
        unscaled(**settings, **{side: lengths[side] for side in sides}),
        progress=False,
        on_image=lambda identifier, image, label, prediction: predictions.append(prediction),
    )
    np.testing.assert_array_equal(predictions, arrays[f"pred_{mode}"][:, 0])
    assert 100 * outcome.miou == pytest.approx(float(arrays[f"miou_{mode}"]), rel=1e-9)


def test_uccl_window_sizes():
    arrays = golden("uccl/evaluate.npz")
    layout = windows(26, 41, int(arrays["crop_size"]), int(arrays["stride"]), "cut_off")
    assert [[w.bottom - w.top, w.right - w.left] for w in layout] == arrays["window_sizes"].tolist()
