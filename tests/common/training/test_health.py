"""How right the labels are that a run makes for itself, on unlabelled images whose labels exist."""

import numpy as np
import pytest

from common.errors import UserError
from common.training.health import LabelAgreement
from tests.builders import experiment
from tests.common.evaluation.test_evaluate import Brightest, Painted


class PartlyLabelled(Painted):
    """Images whose brightest channel is the label; the labels of some are not there, one of another is turned over."""

    def __init__(self, missing=(), wrong=None):
        super().__init__([(16, 16)] * 10)
        self.missing = missing
        if wrong is not None:
            self.labels[wrong] = (self.labels[wrong] + 1) % 3

    def label(self, identifier):
        if identifier in self.missing:
            raise UserError(f"no label {identifier}")
        return super().label(identifier)


def agreement(dataset, images=4):
    augment = {"mean": (100.0, 100.0, 100.0), "std": (50.0, 50.0, 50.0)}
    config = experiment(
        Painted.classes, dataset={"name": "painted"}, augment=augment, trainer={"health_images": images}
    )
    return LabelAgreement(dataset, dataset.ids, config)


def test_images_are_spread_over_the_list_and_a_right_network_agrees():
    measurement = agreement(PartlyLabelled())
    assert measurement.ids == ("image0", "image2", "image5", "image7")
    assert measurement.measure(Brightest()) == {"images": 4, "miou": pytest.approx(1), "pixel_accuracy": 1}


def test_a_wrong_image_of_four_costs_its_pixels():
    assert agreement(PartlyLabelled(wrong="image5")).measure(Brightest())["pixel_accuracy"] == 0.75


def test_images_without_labels_are_left_out():
    measurement = agreement(PartlyLabelled(missing=["image2"]))
    assert measurement.ids == ("image0", "image5", "image7") and measurement.measure(Brightest())["images"] == 3


@pytest.mark.parametrize(("missing", "images"), [([f"image{k}" for k in range(10)], 4), ([], 0)])
def test_nothing_is_measured_where_no_label_exists_or_none_is_asked_for(missing, images):
    assert agreement(PartlyLabelled(missing=missing), images).measure(Brightest()) == {}


def test_a_label_with_a_foreign_value_ends_the_measuring_and_not_the_run():
    dataset = PartlyLabelled()
    dataset.labels["image5"] = np.full((16, 16), 77, np.uint8)
    measurement = agreement(dataset)
    assert measurement.measure(Brightest()) == {} and measurement.ids == ()


def test_more_images_than_the_list_holds_are_the_whole_list():
    assert agreement(PartlyLabelled(), 50).ids == PartlyLabelled().ids
