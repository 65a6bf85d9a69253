"""The evaluation loop and its protocols with a predictor whose answers are known: the brightest channel wins."""

import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from common.config.schema import ExperimentConfig
from common.errors import UserError
from common.evaluation.evaluate import describe_protocol, evaluate, predict
from common.images.resize import resize_bilinear
from common.methods.groups import Groups
from common.methods.weak_crop import WeakCrop
from common.prediction.predictor import UsedRuntime
from tests.builders import experiment
from tests.places import SHARED

GOLDEN = SHARED / "golden"


class Brightest:
    """The three channels are the logits of three classes; remembers what it was given."""

    runtime = UsedRuntime(name="numpy", version="1", device="cpu")
    classes = 3

    def __init__(self):
        self.inputs = []

    def class_ids(self, images, size):
        assert images.dtype == np.float32 and images.flags.c_contiguous
        self.inputs.append(images)
        return resize_bilinear(images, size).argmax(1).astype(np.uint8)

    def sliding_class_ids(self, image, windows, accumulate):
        self.inputs.append(image)
        self.windows, self.accumulate = windows, accumulate
        return image[0].argmax(0).astype(np.uint8)


class Painted:
    """Images whose brightest channel is the label, apart from what the test changes; sizes differ."""

    name = "painted"
    classes = ("red", "green", "blue")
    ignored_classes = frozenset()

    def __init__(self, sizes=((20, 30), (31, 17), (24, 24))):
        rng = np.random.default_rng(5)
        self.labels = {f"image{i}": rng.integers(0, 3, size).astype(np.uint8) for i, size in enumerate(sizes)}
        self.images = {key: np.eye(3, dtype=np.uint8)[label] * 200 for key, label in self.labels.items()}
        self.ids = tuple(self.labels)

    def image(self, identifier):
        return self.images[identifier]

    def label(self, identifier):
        return self.labels[identifier]


@pytest.fixture
def dataset():
    return Painted()


def painted(**evaluation) -> ExperimentConfig:
    augment = {"mean": (100.0, 100.0, 100.0), "std": (50.0, 50.0, 50.0)}
    return experiment(Painted.classes, dataset={"name": "painted"}, augment=augment, evaluation=evaluation)


def run(dataset, config, predictor=None, **options):
    return evaluate(predictor or Brightest(), dataset, dataset.ids, config, progress=False, **options)


@pytest.mark.parametrize(
    "protocol",
    [
        {},
        {"protocol": "slide", "size": 26, "stride": 13},
        {"protocol": "slide", "size": 16, "stride": 8, "window_rule": "cut_off"},
        {"protocol": "center_crop", "size": 16},
    ],
)
def test_perfect_predictions_score_one(dataset, protocol):
    outcome = run(dataset, painted(**protocol))
    assert outcome.miou == pytest.approx(1.0) and outcome.pixel_accuracy == 1.0
    assert outcome.iou == (1.0, 1.0, 1.0)
    assert outcome.images == 3
    assert outcome.protocol["name"] == protocol.get("protocol", "whole")


def test_every_error_is_counted(dataset):
    wrong = dataset.images["image1"]
    wrong[:2, :5] = np.roll(wrong[:2, :5], 1, axis=2)
    outcome = run(dataset, painted())
    pixels = sum(label.size for label in dataset.labels.values())
    assert outcome.confusion.matrix.sum() == pixels
    assert outcome.confusion.matrix.trace() == pixels - 10
    assert outcome.pixel_accuracy == 1 - 10 / pixels
    assert outcome.miou < 1


def test_outcome_describes_itself(dataset):
    predictor = Brightest()
    outcome = run(dataset, painted(protocol="slide", size=26, stride=13, accumulate="sum_logits"), predictor)
    assert outcome.runtime == Brightest.runtime
    assert outcome.seconds > 0 and outcome.seconds_per_image == pytest.approx(outcome.seconds / 3)
    assert outcome.protocol == {
        "name": "slide",
        "size": 26,
        "stride": 13,
        "window_rule": "shift_back",
        "accumulate": "sum_logits",
        "absent_class": "zero",
        "mean": [100.0] * 3,
        "std": [50.0] * 3,
    }
    assert predictor.accumulate == "sum_logits"


@pytest.mark.parametrize(
    ("evaluation", "keys"),
    [
        ({}, set()),
        ({"protocol": "center_crop", "size": 9, "pad_label": 0}, {"size", "pad_label"}),
        ({"protocol": "resize", "size": 9}, {"size"}),
    ],
)
def test_protocol_lists_only_what_decides_the_score(evaluation, keys):
    assert set(describe_protocol(painted(**evaluation))) == {"name", "absent_class", "mean", "std"} | keys


def test_absent_class_rule_comes_from_the_configuration(dataset):
    for identifier, label in dataset.labels.items():
        label[label == 2] = 0
        dataset.images[identifier] = np.eye(3, dtype=np.uint8)[label] * 200
    assert run(dataset, painted()).miou == pytest.approx(2 / 3)
    assert run(dataset, painted(absent_class="skip")).miou == 1.0
    assert np.isnan(run(dataset, painted()).iou[2])


def test_images_are_normalised(dataset):
    predictor = Brightest()
    run(dataset, painted(), predictor)
    expected = (dataset.images["image0"].astype(np.float32) - 100) / 50
    np.testing.assert_array_equal(predictor.inputs[0], expected.transpose(2, 0, 1)[None])


def test_slide_pads_small_images_half_on_each_side_with_the_mean_colour(dataset):
    predictor = Brightest()
    run(dataset, painted(protocol="slide", size=25, stride=12), predictor)
    padded = predictor.inputs[0][0]
    assert padded.shape == (3, 25, 30)
    assert (padded[:, :2] == 0).all() and (padded[:, 22:] == 0).all() and (padded[:, 2:22] != 0).all()


def test_slide_with_cut_off_windows_does_not_pad(dataset):
    predictor = Brightest()
    run(dataset, painted(protocol="slide", size=25, stride=12, window_rule="cut_off"), predictor)
    assert predictor.inputs[0].shape == (1, 3, 20, 30)


@pytest.mark.parametrize(("pad_label", "counted"), [(0, 3 * 40 * 40), (255, 20 * 30 + 31 * 17 + 24 * 24)])
def test_center_crop_counts_padding_only_when_asked(dataset, pad_label, counted):
    outcome = run(dataset, painted(protocol="center_crop", size=40, pad_label=pad_label))
    assert outcome.confusion.matrix.sum() == counted
    assert outcome.confusion.ignored == 3 * 40 * 40 - counted


@pytest.mark.parametrize("case", ["c_val_center", "d_val_center_large"])
def test_center_crop_golden(case):
    path = GOLDEN / "u2pl" / f"transform_{case}.npz"
    if not path.is_file():
        pytest.skip(f"optional real data beside the checkout is absent: {path}")
    with np.load(path) as file:
        arrays = dict(file)
    dataset = Painted(sizes=(arrays["label"].shape,))
    dataset.images["image0"], dataset.labels["image0"] = arrays["image"], arrays["label"]
    dataset.classes = tuple(f"class{i}" for i in range(254))
    predictor, seen = Brightest(), []
    predictor.classes = 254
    config = painted(protocol="center_crop", size=int(arrays["crop"]), pad_label=0)
    config = replace(config, augment=WeakCrop())
    run(dataset, config, predictor, on_image=lambda *arguments: seen.append(arguments))
    np.testing.assert_allclose(predictor.inputs[0][0], arrays["image_out"], atol=1e-6)
    np.testing.assert_array_equal(seen[0][2], arrays["label_out"])
    assert not np.array_equal(np.roll(seen[0][2], 1, axis=1), arrays["label_out"])


def test_resize_predicts_a_square_and_answers_at_the_image_size(dataset):
    predictor = Brightest()
    outcome = run(dataset, painted(protocol="resize", size=48), predictor)
    assert {images.shape for images in predictor.inputs} == {(1, 3, 48, 48)}
    assert outcome.confusion.matrix.sum() == sum(label.size for label in dataset.labels.values())


def test_on_image_sees_matching_arrays_in_order(dataset):
    seen = []
    run(dataset, painted(), on_image=lambda *arguments: seen.append(arguments))
    assert [entry[0] for entry in seen] == list(dataset.ids)
    for identifier, image, label, prediction in seen:
        np.testing.assert_array_equal(image, dataset.images[identifier])
        np.testing.assert_array_equal(label, dataset.labels[identifier])
        np.testing.assert_array_equal(prediction, label)


def test_on_image_sees_the_crop_under_center_crop(dataset):
    seen = []
    run(dataset, painted(protocol="center_crop", size=20), on_image=lambda *arguments: seen.append(arguments))
    _, image, label, prediction = seen[0]
    assert image.shape == (20, 20, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(image, dataset.images["image0"][:, 5:25])
    np.testing.assert_array_equal(label, dataset.labels["image0"][:, 5:25])
    assert prediction.shape == (20, 20)


def test_predict_gives_the_ids_that_are_evaluated(dataset):
    for settings in ({}, {"protocol": "slide", "size": 25, "stride": 12}):
        ids = predict(Brightest(), dataset.images["image0"], painted(**settings))
        np.testing.assert_array_equal(ids, dataset.labels["image0"])


def test_predict_refuses_center_crop(dataset):
    with pytest.raises(UserError, match="center_crop sees only a part"):
        predict(Brightest(), dataset.images["image0"], painted(protocol="center_crop", size=9))


def test_foreign_label_names_the_image(dataset):
    dataset.labels["image1"][3, 4] = 7
    with pytest.raises(UserError, match="data set painted, image image1: .*value 7"):
        run(dataset, painted())


def test_label_of_another_size_names_the_image(dataset):
    dataset.labels["image2"] = dataset.labels["image2"][:, :20]
    with pytest.raises(UserError, match="image image2: the label is 24x20 but the prediction is 24x24"):
        run(dataset, painted())


def test_bad_use_is_refused(dataset):
    with pytest.raises(UserError, match="no image to evaluate"):
        evaluate(Brightest(), dataset, (), painted(), progress=False)
    with pytest.raises(UserError, match="pad_label = 3 is no class"):
        run(dataset, painted(protocol="center_crop", size=9, pad_label=3))
    predictor = Brightest()
    predictor.classes = 21
    with pytest.raises(UserError, match="21 classes but data set painted has 3"):
        run(dataset, painted(), predictor)
    for label in dataset.labels.values():
        label[:] = 255
    with pytest.raises(UserError, match="no labelled pixel in any of the 3 images"):
        run(dataset, painted())


def test_an_unreadable_image_stops_the_evaluation_and_its_readers(dataset):
    def broken(identifier):
        raise UserError(f"{identifier} is damaged")

    threads = threading.active_count()
    dataset.image = broken
    with pytest.raises(UserError, match="image0 is damaged"):
        run(dataset, painted())
    assert threading.active_count() == threads


def test_only_a_few_images_are_read_ahead():
    dataset = Painted(sizes=((8, 8),) * 12)
    read, ahead = [], []
    original = dataset.image

    def image(identifier):
        read.append(identifier)
        return original(identifier)

    dataset.image = image
    counter = iter(range(12))
    run(dataset, painted(), on_image=lambda *arguments: ahead.append(len(read) - next(counter)))
    assert max(ahead) <= 4 and sorted(read) == sorted(dataset.ids)


def test_progress_is_plain_lines_off_a_terminal(dataset, capsys):
    evaluate(Brightest(), dataset, dataset.ids, painted())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [f"evaluated {done} of 3 images" for done in (1, 2, 3)]


def test_progress_is_a_bar_on_a_terminal(dataset, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    evaluate(Brightest(), dataset, dataset.ids, painted())
    captured = capsys.readouterr()
    assert "evaluate:" in captured.err and "evaluated 3 of 3" not in captured.err


def test_progress_can_be_switched_off(dataset, capsys):
    run(dataset, painted())
    assert capsys.readouterr().err == ""


def test_an_ignored_class_has_no_part_in_the_mean(dataset):
    dataset.ignored_classes = frozenset({0})
    for label in dataset.labels.values():
        label[label == 0] = 255
    outcome = run(dataset, painted())
    assert outcome.miou == pytest.approx(1.0) and np.isnan(outcome.iou[0])


class Two:
    """One of two processes; notes its own counts, and gives the sum with what the other has noted."""

    def __init__(self, index: int, other: list) -> None:
        self.groups, self.other, self.counts = Groups(2, index, 2), other, []

    def sum_counts(self, counts):
        self.counts.append(counts)
        return counts + sum(self.other)


def test_processes_share_the_images_out_and_add_up_whole_numbers(dataset):
    dataset.images["image2"] = dataset.images["image2"][::-1].copy()  # some wrong pixels
    whole = run(dataset, painted())
    first, seen = Two(0, []), []
    part = run(dataset, painted(), processes=first, on_image=lambda image_id, *_: seen.append(image_id))
    both = run(dataset, painted(), processes=Two(1, first.counts), on_image=lambda image_id, *_: seen.append(image_id))
    assert sorted(seen) == sorted(dataset.ids) and seen[:2] == list(dataset.ids[:2])
    assert np.array_equal(both.confusion.matrix, whole.confusion.matrix) and both.miou == whole.miou < 1
    assert both.images == 3 and part.confusion.matrix.sum() < whole.confusion.matrix.sum()
