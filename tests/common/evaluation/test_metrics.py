"""Pixel counts and the scores made of them, by hand and against the authors' programs."""

import numpy as np
import pytest

from common.errors import UserError
from common.evaluation.metrics import ConfusionMatrix
from tests.places import SHARED

GOLDEN = SHARED / "golden"

TRUTH = np.array([[0, 0, 1], [1, 2, 255]], dtype=np.uint8)
PREDICTION = np.array([[0, 1, 1], [1, 0, 3]], dtype=np.uint8)


def golden(name: str) -> dict[str, np.ndarray]:
    path = GOLDEN / name
    if not path.is_file():
        pytest.skip(f"optional real data beside the checkout is absent: {path}")
    with np.load(path) as arrays:
        return dict(arrays)


def counted(*pairs, classes: int) -> ConfusionMatrix:
    confusion = ConfusionMatrix(classes)
    for prediction, label in pairs:
        confusion.update(prediction.astype(np.uint8), label.astype(np.uint8))
    return confusion


def test_counts_by_hand():
    confusion = counted((PREDICTION, TRUTH), classes=4)
    assert confusion.matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert confusion.matrix.dtype == np.int64
    assert confusion.ignored == 1
    assert confusion.truth().tolist() == [2, 2, 1, 0]
    assert confusion.predicted().tolist() == [2, 3, 0, 0]
    assert confusion.intersection().tolist() == [1, 2, 0, 0]
    assert confusion.union().tolist() == [3, 3, 1, 0]


def test_scores_by_hand():
    confusion = counted((PREDICTION, TRUTH), classes=4)
    np.testing.assert_array_equal(confusion.iou(), [1 / 3, 2 / 3, 0, np.nan])
    assert confusion.miou("zero") == pytest.approx(1 / 4)
    assert confusion.miou("skip") == pytest.approx(1 / 3)
    assert confusion.pixel_accuracy() == pytest.approx(3 / 5)


def test_nothing_labelled_has_no_score():
    confusion = counted((PREDICTION, np.full_like(TRUTH, 255)), classes=4)
    assert np.isnan(confusion.pixel_accuracy())
    assert np.isnan(confusion.miou("skip"))
    assert confusion.miou("zero") == 0


@pytest.mark.parametrize("classes", [2, 21, 254])
def test_agrees_with_plain_counting_for_every_number_of_classes(classes):
    rng = np.random.default_rng(classes)
    label = rng.integers(0, classes, (40, 50)).astype(np.uint8)
    prediction = rng.integers(0, classes, (40, 50)).astype(np.uint8)
    label[0, :2], prediction[0, :2] = classes - 1, classes - 1
    label[rng.random(label.shape) < 0.2] = 255
    expected = np.zeros((classes, classes), dtype=np.int64)
    for truth, guess in zip(label.ravel(), prediction.ravel()):
        if truth != 255:
            expected[truth, guess] += 1
    confusion = counted((prediction, label), classes=classes)
    np.testing.assert_array_equal(confusion.matrix, expected)
    assert confusion.ignored == (label == 255).sum()


@pytest.mark.parametrize("absent", ["zero", "skip"])
def test_an_ignored_class_counts_nowhere_but_as_a_wrong_prediction(absent):
    confusion = ConfusionMatrix(3, ignored_classes={0})
    label = np.array([[1] * 8 + [2] * 1], np.uint8)
    confusion.update(np.array([[1] * 7 + [0] * 2], np.uint8), label)
    np.testing.assert_array_equal(np.isnan(confusion.iou()), [True, False, False])
    assert confusion.iou()[1:].tolist() == [0.875, 0.0]
    assert confusion.miou(absent) == pytest.approx(0.4375) and confusion.miou(absent, first=1) == pytest.approx(0.4375)
    assert confusion.miou(absent, first=2) == 0 and confusion.pixel_accuracy() == pytest.approx(7 / 9)
    with pytest.raises(ValueError, match="cannot be merged"):
        confusion.merge(ConfusionMatrix(3))


def test_merge_is_the_same_as_counting_together():
    other = np.flip(TRUTH).copy()
    together = counted((PREDICTION, TRUTH), (PREDICTION, other), classes=4)
    merged = counted((PREDICTION, TRUTH), classes=4)
    merged.merge(counted((PREDICTION, other), classes=4))
    np.testing.assert_array_equal(merged.matrix, together.matrix)
    assert merged.ignored == together.ignored == 2


def test_merge_refuses_another_number_of_classes():
    with pytest.raises(ValueError, match="different classes"):
        ConfusionMatrix(4).merge(ConfusionMatrix(5))


@pytest.mark.parametrize("value", [4, 11, 254])
def test_foreign_label_value_is_named_and_nothing_is_counted(value):
    confusion = ConfusionMatrix(4)
    label = TRUTH.copy()
    label[0, 0] = value
    with pytest.raises(UserError, match=rf"the value {value}, but only 0\.\.3 and 255"):
        confusion.update(PREDICTION, label)
    assert confusion.matrix.sum() == 0 and confusion.ignored == 0


def test_another_ignored_value():
    confusion = ConfusionMatrix(4, ignore_index=11)
    confusion.update(PREDICTION, np.where(TRUTH == 255, 11, TRUTH).astype(np.uint8))
    assert confusion.ignored == 1
    with pytest.raises(UserError, match="the value 255"):
        confusion.update(PREDICTION, TRUTH)


def test_wrong_sizes_types_and_predictions_are_refused():
    confusion = ConfusionMatrix(3)
    with pytest.raises(UserError, match="the label is 2x2 but the prediction is 2x3"):
        confusion.update(PREDICTION, TRUTH[:, :2])
    with pytest.raises(TypeError, match="uint8"):
        confusion.update(PREDICTION.astype(np.int64), TRUTH)
    with pytest.raises(ValueError, match="predicted class 3 with 3 classes"):
        confusion.update(PREDICTION, TRUTH)
    with pytest.raises(ValueError, match="between 2 and 254"):
        ConfusionMatrix(255)


def test_u2pl_golden_exact():
    arrays = golden("u2pl/metric_a.npz")
    images = [(arrays[f"pred_{i}"], arrays[f"gt_{i}"]) for i in range(3)]
    classes = int(arrays["num_classes"])
    for i, image in enumerate(images):
        confusion = counted(image, classes=classes)
        np.testing.assert_array_equal(confusion.intersection(), arrays[f"intersection_{i}"])
        np.testing.assert_array_equal(confusion.union(), arrays[f"union_{i}"])
        np.testing.assert_array_equal(confusion.truth(), arrays[f"target_{i}"])
    total = counted(*images, classes=classes)
    assert total.miou("zero") == arrays["miou"]
    np.testing.assert_allclose(np.nan_to_num(total.iou()), arrays["iou_class"], rtol=1e-11)
    # Negative control: counting the ignored pixels as class 0 must be noticed.
    wrong = counted(*[(p, np.where(g == 255, 0, g)) for p, g in images], classes=classes)
    assert wrong.miou("zero") != arrays["miou"]


@pytest.mark.parametrize("case", ["voc", "city_two_absent"])
def test_cpcl_golden_exact(case):
    arrays = golden(f"cpcl/metric/{case}.npz")
    confusion = counted((arrays["pred"], arrays["gt"]), classes=int(arrays["num_classes"]))
    np.testing.assert_array_equal(confusion.matrix, arrays["hist"])
    np.testing.assert_array_equal(confusion.iou(), arrays["iou"])
    assert confusion.miou("skip") == arrays["miou"]
    assert confusion.pixel_accuracy() == arrays["pixel_accuracy"]
    if case == "city_two_absent":
        assert confusion.miou("zero") < arrays["miou"] - 0.01


def test_pcr_and_uccl_goldens():
    arrays = golden("pcr/miou_basic.npz")
    confusion = counted((arrays["output"], arrays["target"]), classes=6)
    np.testing.assert_array_equal(confusion.intersection(), arrays["intersection"])
    np.testing.assert_array_equal(confusion.union(), arrays["union"])
    assert confusion.miou("zero") == pytest.approx(float(arrays["miou"]), rel=1e-6)
    arrays = golden("uccl/intersection_union.npz")
    confusion = counted((arrays["pred"], arrays["target"]), classes=5)
    np.testing.assert_array_equal(confusion.union(), arrays["union"])
    assert 100 * confusion.miou("zero") == pytest.approx(float(arrays["miou_percent"]), rel=1e-12)


def test_label_equal_to_the_number_of_classes_is_an_error_unlike_the_authors_histogram():
    arrays = golden("pcr/miou_label_one_past_last.npz")
    with pytest.raises(UserError, match="the value 6"):
        counted((np.minimum(arrays["output"], 5), arrays["target"]), classes=6)
