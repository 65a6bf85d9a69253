"""Settings that make no sense are refused in one line before anything starts."""

from __future__ import annotations

import pytest

from common.errors import UserError
from common.experiment import compose

WRONG = [
    "trainer.threads=-1", "trainer.seed=-1", "dataset.seed=-1", "network.representation=0", "network.subclasses=255",
    "network.aspp_dilations=[0]", "evaluation.size=0", "trainer.iterations_per_epoch=0", "optimizer.lr=.nan",
    "optimizer.lr=.inf", "augment.resize_range=[2,3]", "augment.std=[0,1,1]", "network.multi_grid=[1,2]",
    "loader.batch_labelled=0", "method.drop_percent=101", "method.preset=paper", "trainer.epochs=2.5",
]  # fmt: skip


@pytest.mark.parametrize("override", WRONG)
def test_value_out_of_range_is_one_line_naming_the_key(override):
    with pytest.raises(UserError) as caught:
        compose("shapes/12/u2pl", [override])
    message = str(caught.value)
    key = override.partition("=")[0].rpartition(".")[2]
    assert "\n" not in message and key in message


def test_right_values_pass():
    assert compose("shapes/12/u2pl", ["trainer.threads=1", "optimizer.lr=0.1"]).trainer.threads == 1
