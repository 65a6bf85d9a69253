"""Batches: the same bytes whatever the workers, resumable at any step, and no hang when something goes wrong."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from common.config.schema import Folders
from common.datasets.file_dataset import open_dataset
from common.errors import UserError
from common.experiment import compose
from common.loading.loader import Loader
from common.methods.interface import OWN_LABEL, Stream
from common.methods.u2pl.augment import WeakCropAndPaste
from common.paths import PROJECT
from tests.processes import PATIENCE

WEAK = WeakCropAndPaste(crop=24)
LABELLED = Stream(name="labelled", source="labelled", pipeline=WEAK, labels=OWN_LABEL)
UNLABELLED = Stream(name="unlabelled", source="unlabelled", pipeline=WEAK)


@dataclass(frozen=True)
class Lists:
    """Stands for a split."""

    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    id: str = "test"


def config_of(*overrides: str, method: str = "u2pl"):
    fixed = ["dataset.images=[40,4]", "augment.crop=24", "loader.workers=0", "trainer.iterations_per_epoch=null"]
    return compose(f"shapes/12/{method}", [*fixed, *overrides])


def loader_of(*overrides: str, streams=(LABELLED, UNLABELLED), labelled=5, **processes) -> Loader:
    batches = {"u2pl": ["loader.batch_labelled=4", "loader.batch_unlabelled=6"], "suponly": ["loader.batch_labelled=4"]}
    method = "suponly" if streams == (LABELLED,) else "u2pl"
    config = config_of(*batches[method], *overrides, method=method)
    dataset = open_dataset(config.dataset)
    split = Lists(dataset.train_ids[:labelled], dataset.train_ids[labelled:])
    return Loader(dataset, split, streams, config, **processes)


def ids_of(batches, stream: str) -> list[str]:
    return [image_id for batch in batches for image_id in batch[stream]["ids"]]


def assert_same(first, second) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second):
        assert one.keys() == other.keys()
        for stream in one:
            assert one[stream].keys() == other[stream].keys() and one[stream]["ids"] == other[stream]["ids"]
            for name in one[stream].keys() - {"ids"}:
                assert one[stream][name].dtype == other[stream][name].dtype
                np.testing.assert_array_equal(one[stream][name], other[stream][name])


def test_batches_have_the_arrays_of_their_streams():
    batch = next(loader_of().epoch(0))
    assert list(batch) == ["labelled", "unlabelled"]
    assert set(batch["labelled"]) == {"ids", "image", "label"} and set(batch["unlabelled"]) == {"ids", "image"}
    labelled, unlabelled = batch["labelled"], batch["unlabelled"]
    assert (labelled["image"].shape, labelled["image"].dtype) == ((4, 3, 24, 24), np.float32)
    assert (labelled["label"].shape, labelled["label"].dtype) == ((4, 24, 24), np.uint8)
    assert unlabelled["image"].shape == (6, 3, 24, 24) and len(unlabelled["ids"]) == 6


def test_workers_and_prefetching_change_nothing():
    here = [list(loader_of().epoch(epoch)) for epoch in (0, 1)]
    for settings in (["loader.workers=1", "loader.prefetch=1"], ["loader.workers=3", "loader.prefetch=4"]):
        with loader_of(*settings) as loader:
            for epoch in (0, 1):
                assert_same(list(loader.epoch(epoch)), here[epoch])
    with pytest.raises(AssertionError):
        assert_same(here[0], here[1])


def test_resuming_gives_the_rest_of_the_epoch():
    loader = loader_of()
    whole = list(loader.epoch(2))
    for step in (0, 1, 3, len(whole)):
        assert_same(list(loader.epoch(2, step)), whole[step:])


def test_seeds_and_epochs_differ():
    loader = loader_of()
    first = ids_of(loader.epoch(0), "unlabelled")
    assert first != ids_of(loader.epoch(1), "unlabelled")
    assert first != ids_of(loader_of("trainer.seed=77").epoch(0), "unlabelled")
    assert first == ids_of(loader_of().epoch(0), "unlabelled")


def test_semi_supervised_epoch_is_one_pass_over_the_unlabelled_list():
    loader = loader_of()
    batches = list(loader.epoch(0))
    assert loader.iterations_per_epoch == len(batches) == 35 // 6
    unlabelled, labelled = ids_of(batches, "unlabelled"), ids_of(batches, "labelled")
    assert len(set(unlabelled)) == len(unlabelled) == 30
    rounds = [labelled[start : start + 5] for start in range(0, 20, 5)]
    assert all(len(set(one)) == 5 for one in rounds), "every repetition of the labelled list is a permutation of it"
    assert len({tuple(one) for one in rounds}) > 1, "every repetition has a new order"


def test_the_same_image_is_augmented_anew_each_time():
    images = {}
    for batch in loader_of(labelled=1).epoch(0):
        for image in batch["labelled"]["image"]:
            images.setdefault(image.tobytes(), 0)
    assert len(images) > 8


def test_set_number_of_iterations_goes_on_with_new_permutations():
    loader = loader_of("trainer.iterations_per_epoch=14")
    ids = ids_of(loader.epoch(0), "unlabelled")
    assert loader.iterations_per_epoch == 14 and len(ids) == 14 * 6
    assert len(set(ids[:35])) == len(set(ids[35:70])) == 35 and ids[:35] != ids[35:70]


def test_streams_of_one_list_have_their_own_order_and_augmentation():
    twin = Stream(name="second", source="unlabelled", pipeline=WEAK)
    batches = list(loader_of(streams=(LABELLED, UNLABELLED, twin)).epoch(0))
    assert ids_of(batches, "unlabelled") != ids_of(batches, "second")
    assert ids_of(batches, "unlabelled") == ids_of(loader_of().epoch(0), "unlabelled")
    images = {
        stream: {
            image_id: image
            for batch in batches
            for image_id, image in zip(batch[stream]["ids"], batch[stream]["image"])
        }
        for stream in ("unlabelled", "second")
    }
    shared = images["unlabelled"].keys() & images["second"].keys()
    assert len(shared) > 20
    assert not any(np.array_equal(images["unlabelled"][name], images["second"][name]) for name in shared)


def test_one_of_two_images_is_prepared():
    half = dataclasses.replace(UNLABELLED, one_of=2)
    whole, chosen = (list(loader_of(streams=(LABELLED, stream)).epoch(0)) for stream in (UNLABELLED, half))
    firsts = 0
    for batch, kept in zip(whole, chosen, strict=True):
        pairs = [batch["unlabelled"]["ids"][start : start + 2] for start in range(0, 6, 2)]
        assert len(kept["unlabelled"]["image"]) == 3
        assert all(name in pair for name, pair in zip(kept["unlabelled"]["ids"], pairs, strict=True))
        firsts += sum(name == pair[0] for name, pair in zip(kept["unlabelled"]["ids"], pairs))
    assert 0 < firsts < 3 * len(whole)
    with pytest.raises(UserError, match="loader.batch_unlabelled = 5.*multiple of 2"):
        loader_of("loader.batch_unlabelled=5", streams=(LABELLED, half))


def test_images_drawn_uniformly_and_only_sometimes():
    drawn = Stream(
        name="paste", source="labelled", pipeline=WEAK.paste, labels=OWN_LABEL, order="uniform", probability=0.5
    )
    loader = loader_of("trainer.iterations_per_epoch=60", streams=(LABELLED, UNLABELLED, drawn))
    batches = list(loader.epoch(0))
    ids = ids_of(batches, "paste")
    assert 80 < ids.count("") < 160 and len(set(ids)) == 6
    assert any(len(set(ids[start : start + 5])) < 5 for start in range(0, 240, 5) if "" not in ids[start : start + 5])
    for name, image, label in zip(*(batches[0]["paste"][key] for key in ("ids", "image", "label"))):
        assert image.shape == (3, 24, 24) and label.shape == (24, 24) and bool(name) == bool(image.any())
    assert_same(list(loader.epoch(0, 50)), batches[50:])
    streams = (LABELLED, dataclasses.replace(UNLABELLED, one_of=3), drawn)
    whole, *parts = (
        list(loader_of("trainer.iterations_per_epoch=3", streams=streams, **share).epoch(0))
        for share in ({}, {"process": 0, "processes": 2}, {"process": 1, "processes": 2})
    )
    for batch, first, second in zip(whole, *parts, strict=True):
        assert all(batch[name]["ids"] == first[name]["ids"] + second[name]["ids"] for name in batch)
    assert ids_of(batches, "labelled") == ids_of(loader_of("trainer.iterations_per_epoch=60").epoch(0), "labelled")


@pytest.mark.parametrize(("last_batch", "sizes"), [("keep", [4, 4, 4, 1]), ("drop", [4, 4, 4]), ("fill", [4, 4, 4, 4])])
def test_supervised_only_passes_once_over_the_labelled_list(last_batch, sizes):
    loader = loader_of(f"loader.last_batch={last_batch}", streams=(LABELLED,), labelled=13)
    batches = list(loader.epoch(0))
    assert [len(batch["labelled"]["ids"]) for batch in batches] == sizes
    assert [len(batch["labelled"]["image"]) for batch in batches] == sizes
    assert loader.iterations_per_epoch == len(sizes)
    ids = ids_of(batches, "labelled")
    assert len(set(ids)) == min(len(ids), 13)
    assert_same(list(loader.epoch(0, 2)), batches[2:])


def test_a_last_batch_is_filled_up_to_whole_groups():
    """As the authors' sampler does, which gives each process as many images as every other one."""
    settings = ["loader.last_batch=keep", "trainer.groups=2"]
    whole = list(loader_of(*settings, streams=(LABELLED,), labelled=13).epoch(0))
    assert [len(batch["labelled"]["ids"]) for batch in whole] == [4, 4, 4, 2]
    parts = [
        list(loader_of(*settings, streams=(LABELLED,), labelled=13, process=process, processes=2).epoch(0))
        for process in (0, 1)
    ]
    assert [len(batch["labelled"]["ids"]) for batch in parts[0]] == [2, 2, 2, 1]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch["labelled"]["ids"] == first["labelled"]["ids"] + second["labelled"]["ids"]


def test_set_number_of_iterations_has_only_full_batches():
    loader = loader_of("loader.last_batch=keep", "trainer.iterations_per_epoch=6", streams=(LABELLED,), labelled=13)
    assert [len(batch["labelled"]["ids"]) for batch in loader.epoch(0)] == [4] * 6


def test_processes_share_the_batches_of_one():
    whole = list(loader_of().epoch(1))
    parts = [list(loader_of(process=process, processes=2).epoch(1)) for process in (0, 1)]
    for alone, first, second in zip(whole, *parts):
        for stream in alone:
            assert alone[stream]["ids"] == first[stream]["ids"] + second[stream]["ids"]
            joined = np.concatenate([first[stream]["image"], second[stream]["image"]])
            np.testing.assert_array_equal(alone[stream]["image"], joined)


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (
            ["loader.batch_unlabelled=36"],
            {},
            "35 unlabelled images do not fill one batch of loader.batch_unlabelled = 36",
        ),
        (
            ["loader.last_batch=drop"],
            {"streams": (LABELLED,), "labelled": 3},
            "3 labelled images do not fill one batch",
        ),
        ([], {"processes": 4}, "loader.batch_unlabelled = 6 does not fall into 4 equal groups"),
        (["trainer.groups=3"], {}, "loader.batch_labelled = 4 does not fall into 3 equal groups .* multiple of 3"),
        (["trainer.groups=2"], {"processes": 4}, "trainer.groups = 2 cannot be shared by 4 processes"),
        ([], {"labelled": 0}, "split test has no labelled images"),
        ([], {"labelled": 40}, "split test has no unlabelled images"),
    ],
)
def test_lists_and_batch_sizes_that_do_not_fit(overrides, options, message):
    with pytest.raises(UserError, match=message):
        loader_of(*overrides, **options)


@pytest.fixture
def damaged(tmp_path):
    """Six images on disk, the last one cut off."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 256, (30, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(pixels[..., 0] % 2).save(tmp_path / "labels" / f"{index}.png")
    path = tmp_path / "images" / "5.png"
    path.write_bytes(path.read_bytes()[:1000])
    (tmp_path / "list.txt").write_text("0\n1\n2\n3\n4\n5\n")
    return open_dataset(
        Folders(
            name="own", layout="folders", root=str(tmp_path), classes=("a", "b"), image_suffix=".png", image_dir="images",
            label_dir="labels", train_list="list.txt", val_list="list.txt",
        )
    )  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
def test_the_error_of_a_file_arrives_as_it_is(damaged, workers):
    config = config_of(f"loader.workers={workers}", "loader.batch_labelled=2")
    with Loader(damaged, Lists(damaged.train_ids, ()), (LABELLED,), config) as loader:
        with pytest.raises(UserError, match=r"image .*5.png cannot be decoded .*\(line 6 of .*list.txt"):
            list(loader.epoch(0))
        with pytest.raises(UserError, match="5.png"):
            list(loader.epoch(1))


def test_a_killed_worker_is_an_error_and_no_hang():
    with loader_of("loader.workers=2", "trainer.iterations_per_epoch=500") as loader:
        batches = loader.epoch(0)
        next(batches)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        with pytest.raises(UserError, match="worker process of the data loader was killed"):
            list(batches)
        assert not multiprocessing.active_children()
        assert_same([next(loader.epoch(0))], [next(loader_of("trainer.iterations_per_epoch=500").epoch(0))])
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_killed_while_idle_is_noticed_too(victim):
    """One of two idle workers holds the lock of the queue of tasks; without it the other cannot be told to end."""
    with loader_of("loader.workers=2") as loader:
        list(loader.epoch(0))
        time.sleep(0.2)
        os.kill(multiprocessing.active_children()[victim].pid, signal.SIGKILL)
        with pytest.raises(UserError, match="worker process of the data loader was killed"):
            for epoch in range(1, 50):
                list(loader.epoch(epoch))
        assert not multiprocessing.active_children()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_workers_leave_signals_to_the_main_process(sent):
    with loader_of("loader.workers=1", "trainer.iterations_per_epoch=30") as loader:
        batches = loader.epoch(0)
        next(batches)
        os.kill(multiprocessing.active_children()[0].pid, sent)
        assert len(list(batches)) == 29
    assert not multiprocessing.active_children()


def test_an_epoch_can_be_left_early():
    with loader_of("loader.workers=1") as loader:
        next(loader.epoch(0))
        assert_same(list(loader.epoch(1)), list(loader_of().epoch(1)))


PARENT = """
import multiprocessing, os, signal, sys
sys.path.insert(0, {project!r})
from tests.common.loading.test_loader import loader_of

if __name__ == "__main__":
    batches = loader_of("loader.workers=2", "trainer.iterations_per_epoch=9").epoch(0)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")
def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(project=str(PROJECT)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + PATIENCE
    while any(map(running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(running, pids))
