"""What a session makes of batches: 8-bit pictures normalised as the loader does, copies to a GPU as far as a CPU can rehearse them."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from common.datasets.file_dataset import open_dataset
from common.experiment import compose
from common.images.normalise import planes
from common.loading.loader import Loader
from common.methods.interface import EightBit
from common.splits.resolve import resolve
from torch_impl.device import CopyToDevice
from torch_impl.session import Session

SETTINGS = ["augment.crop=48", "loader.batch_labelled=2", "trainer.device=cpu", "trainer.iterations_per_epoch=2"]
UNLABELLED = ["loader.batch_unlabelled=2"]
EIGHT_BIT = {"fixmatch": UNLABELLED, "unimatch": UNLABELLED, "uccl": UNLABELLED, "usrn_baseline": []}
FLOATS = {"suponly": [], "u2pl": UNLABELLED, "pcr": UNLABELLED, "cps_cutmix": UNLABELLED, "cpcl": UNLABELLED}


def batches_of(method: str, more: list[str], workers: int, eight_bit: bool) -> tuple[list[dict], Session]:
    config = compose(f"shapes/12/{method}", [*SETTINGS, *more, f"loader.workers={workers}"])
    dataset = open_dataset(config.dataset)
    split = resolve(dataset, config.split)
    with Loader(dataset, split, config.streams(), config, eight_bit=eight_bit) as loader:
        return list(loader.epoch(0)), Session(config)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("method", EIGHT_BIT)
def test_pictures_normalised_by_the_session_are_the_loaders_bit_for_bit(method, workers):
    pictures, session = batches_of(method, EIGHT_BIT[method], workers, True)
    expected, _ = batches_of(method, EIGHT_BIT[method], 0, False)
    images = 0
    for batch, wanted in zip(pictures, expected, strict=True):
        for stream, part in wanted.items():
            assert list(batch[stream]) == list(part) and batch[stream]["ids"] == part["ids"]
            for name in part.keys() - {"ids"}:
                tensor = session.tensor(batch[stream][name])
                assert tensor.is_contiguous() and np.array_equal(tensor.numpy(), part[name])
                images += batch[stream][name].dtype == np.uint8 and part[name].dtype == np.float32
    assert images


@pytest.mark.parametrize("method", FLOATS)
def test_other_pipelines_stay_floats(method):
    batches, session = batches_of(method, FLOATS[method], 0, True)
    expected, _ = batches_of(method, FLOATS[method], 0, False)
    assert not any(isinstance(stream.pipeline, EightBit) for stream in session.config.streams())
    for name, array in expected[0]["labelled"].items():
        np.testing.assert_array_equal(batches[0]["labelled"][name], array)


def test_every_8_bit_value_is_normalised_as_on_the_host():
    session = Session(compose("shapes/12/fixmatch", ["trainer.device=cpu"]))
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    normalised = session.tensor(values).numpy()
    np.testing.assert_array_equal(normalised[0], planes(values[0], session.config.normalisation))
    other = session.tensor(np.roll(values, 1)).numpy()
    assert not np.array_equal(normalised, other)


def test_on_a_cpu_batches_are_the_loaders_own():
    session = Session(compose("shapes/12/fixmatch", ["trainer.device=cpu"]))
    batches = iter([{}])
    assert session.batches(batches) is batches and not session.eight_bit


@pytest.fixture
def rehearsed(monkeypatch):
    """A stand-in for CUDA: what would be done on which stream, in order."""
    done: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def record_event(self) -> str:
            done.append(f"{self.name}: event")
            return "event"

        def wait_event(self, event: str) -> None:
            done.append(f"{self.name}: wait for {event}")

    @contextmanager
    def inside(stream: Stream):
        done.append(f"{stream.name}: begin")
        yield
        done.append(f"{stream.name}: end")

    def empty(*arguments, pin_memory: bool = False, **options):
        assert pin_memory
        done.append("pinned")
        return plain(*arguments, **options)

    plain = torch.empty
    fake = SimpleNamespace(
        Stream=lambda device: Stream("copies"), stream=inside, current_stream=lambda device: Stream("steps")
    )
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: done.append(f"{stream.name}: keeps"))
    return done


def test_a_copy_is_made_on_its_own_stream_and_waited_for_by_the_steps(rehearsed):
    rng = np.random.default_rng(0)
    labelled = {"ids": ["a"], "image": rng.normal(size=(1, 3, 4, 4)), "label": np.zeros((1, 4, 4), np.uint8)}
    batch = {"labelled": labelled, "paste": {"ids": ["b"], "image": rng.normal(size=(1, 3, 4, 4))}}
    finish = CopyToDevice(torch.device("cpu"), on_host=("paste",))(batch)
    assert rehearsed == ["copies: begin", "pinned", "pinned", "copies: event", "copies: end"]
    image = labelled["image"].copy()
    labelled["image"][:] = 0  # the slot of the ring is used again
    moved = finish()
    assert rehearsed[5:] == ["steps: wait for event", "steps: keeps", "steps: keeps"]
    assert moved["labelled"]["ids"] == ["a"] and moved["paste"] is batch["paste"]
    np.testing.assert_array_equal(moved["labelled"]["image"].numpy(), image)
