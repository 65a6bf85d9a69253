"""What is counted of a step that sends, and the arithmetic of the estimate for many processes."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from torch import nn

from common.experiment import compose
from experiments.scaling import COUNT, Hardware, Sent, counted, table
from torch_impl.networks import build_network

SMALL = ["network.width=16"]


@pytest.mark.parametrize(("method", "passes"), [("suponly", 1), ("unimatch", 4), ("cps", 4)])
def test_gradients_and_batch_norm_are_what_is_sent(method, passes):
    """Of each network's gradients all; of each BatchNorm, in each pass with a gradient, two values and a count, and two back."""
    config = compose(f"shapes/12/{method}", SMALL)
    network = build_network(config.network, len(config.dataset.classes))
    norms = [layer.num_features for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    trained = 2 if method == "cps" else 1
    _, sent = counted(f"shapes/12/{method}", SMALL, crop=33)
    assert sent.gradient_bytes == 4 * trained * sum(p.numel() for p in network.parameters())
    assert sent.gatherings % len(norms) == 0 and sent.gatherings >= trained * len(norms)
    assert sent.gathered_bytes == sent.gatherings // len(norms) * 4 * sum(2 * channels + 1 for channels in norms)


def test_operations_grow_with_images_and_pixels():
    each = [counted("shapes/12/suponly", SMALL, crop=crop)[0] for crop in (33, 65)]
    assert each[1] == pytest.approx(each[0], rel=0.1)


def test_the_time_of_what_is_sent():
    hardware = Hardware(sustained=1, inside=100, link=10, latency=5)
    sent = Sent(sums=3, sum_bytes=10**9, gradient_bytes=10**9, gatherings=2, gathered_bytes=10**6)
    assert hardware.seconds(sent, 1) == 0
    assert hardware.seconds(sent, 8) == pytest.approx(8 * 3 * 5e-6 + (2 * 7 / 8 * 1e9 + 7e6) / 1e11)
    assert hardware.seconds(sent, 64) == pytest.approx(8 * 6 * 5e-6 + (2 * 63 / 64 * 1e9 + 63e6) / 1e10)


def test_a_row_names_step_time_and_efficiency(monkeypatch):
    sent = Sent(sums=1, sum_bytes=10**9, gradient_bytes=10**9, gatherings=0, gathered_bytes=0)
    monkeypatch.setattr("experiments.scaling.counted", lambda name: (0.0, sent))
    (row,) = table(["voc/366/u2pl"], Hardware(60, 200, 25, 10)).splitlines()[2:]
    assert row.startswith("| voc/366/u2pl | 4 + 4 | 0.0 | 1000 | 1 of 0.00 MB | 0 of 0.00 MB | 9 ms, 0 % |")
    assert COUNT == 2
