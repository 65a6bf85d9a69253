"""How often the host waits for the device in one training step: once where nothing else is needed, a listed number elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from common.config.schema import ExperimentConfig
from common.datasets.file_dataset import open_dataset
from common.experiment import compose
from common.loading.samples import SampleMaker
from common.methods.interface import Clock, NonFiniteLoss
from common.splits.resolve import resolve
from tests.waits import counted
from torch_impl.methods import method_class
from torch_impl.session import Session

ONCE = ("suponly", "usrn_baseline", "mean_teacher", "fixmatch", "unimatch", "uccl", "usrn")
IMAGES, CLASSES = 2, 6
OFTEN = {
    "cps": 4, "cps_cutmix": 4,  # the losses of two branches on two kinds of images
    "cpcl": 4 + 1 + IMAGES,  # the same, and the table of the branches' disagreement, counted image by image
    "pcr": 1 + 4,  # the losses, and which pixels the prototypes are moved by
    "u2pl": 12 + 4 * CLASSES,  # maps to mix, percentiles and, by class, keys, anchors and the loss
    "u2pl_ael": 17 + 4 * CLASSES,  # and confidences of classes
}  # fmt: skip
SETTINGS = {"usrn": ["method.subclass_counts=[2,1,1,1,1,1]", "network.subclasses=7"]}


def config_of(method: str) -> ExperimentConfig:
    sizes = {"suponly": ["loader.batch_labelled=2"], "usrn_baseline": ["loader.batch_labelled=2"]}
    batch = sizes.get(method, ["loader.batch_labelled=2", "loader.batch_unlabelled=2"])
    fixed = ["augment.crop=65", "loader.workers=0", "trainer.device=cpu", "trainer.epochs=4"]
    return compose(f"shapes/12/{method}", [*fixed, *batch, *SETTINGS.get(method, [])])


def batch_of(config: ExperimentConfig, seed: int, value: float = 1.0) -> dict:
    """A batch of noise with the names, shapes and types of the real ones."""
    rng, batch = np.random.default_rng(seed), {}
    ids = resolve(open_dataset(config.dataset), config.split).unlabelled
    maker = SampleMaker(dataset=None, streams={stream.name: stream for stream in config.streams()}, seed=0)
    for stream in maker.streams.values():
        count, part = 2 // stream.one_of, {"ids": list(ids[: 2 // stream.one_of])}
        for name, array in maker.blank(stream.name).items():
            shape = (count, *array.shape)
            if array.dtype == np.float32:
                part[name] = (value * rng.standard_normal(shape)).astype(np.float32)
            elif name in ("label", "subclass"):
                part[name] = rng.integers(0, 6, (count, 5, 5)).astype(np.uint8).repeat(13, 1).repeat(13, 2)
            else:
                part[name] = np.zeros(shape, array.dtype)
        batch[stream.name] = part
    return batch


def clock(step: int) -> Clock:
    """A step of the third of four epochs, in which every method uses unlabelled images."""
    return Clock(epoch=2, step=step, iteration=20 + step, epochs=4, iterations_per_epoch=10)


def waits_of(method: str) -> list[str]:
    """The waits of the third of three steps; the first two fill banks and momenta."""
    config = config_of(method)
    running = method_class(config.method.name)(config, Session(config))
    if hasattr(running, "set_prototypes"):
        shape = running.student.prototypes.shape
        running.set_prototypes(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    for step in range(2):
        running.step(batch_of(config, step), clock(step))
    batch = batch_of(config, 2)
    with counted() as waits:
        running.step(batch, clock(2))
    return waits.places


@pytest.mark.parametrize("method", ONCE)
def test_the_losses_are_the_only_thing_to_wait_for(method):
    (place,) = waits_of(method)
    assert place.startswith("torch_impl/optimizer.py") and place.endswith("tolist")


@pytest.mark.parametrize("method", OFTEN)
def test_other_methods_wait_a_listed_number_of_times(method):
    places = waits_of(method)
    assert len(places) <= OFTEN[method], "\n".join(places)


@pytest.mark.parametrize(
    ("operation", "count"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: float(x.sum()), 1),
        (lambda x: 1 if (x > 0).any() else 2, 1),
        (lambda x: x[x > 0], 1),
        (lambda x: (x > 0).nonzero(), 1),
        (lambda x: x.cpu().numpy(), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: torch.tensor(1.0, device=x.device), 1),
        (lambda x: x.new_tensor([1.0]), 1),
        (lambda x: torch.bincount(x.long().abs()), 1),
        (lambda x: x.sum().item() + x.mean().item(), 2),
        (lambda x: x.masked_fill(x > 0, 0).softmax(0).sum(), 0),
        (lambda x: x[torch.arange(2)], 0),
        (lambda x: x.kthvalue(2).values.clamp(min=1), 0),
    ],
)
def test_what_counts_as_a_wait(operation, count):
    with counted() as waits:
        operation(torch.linspace(-1, 1, 5))
    assert len(waits.places) == count, waits.places


def test_a_loss_that_is_not_finite_is_known_before_the_optimiser_steps():
    config = config_of("fixmatch")
    running = method_class("fixmatch")(config, Session(config))
    before = [parameter.detach().clone() for parameter in running.student.parameters()]
    with pytest.raises(NonFiniteLoss), counted() as waits:
        running.step(batch_of(config, 0, value=float("nan")), clock(0))
    assert len(waits.places) == 1
    assert all(torch.equal(old, new) for old, new in zip(before, running.student.parameters()))
