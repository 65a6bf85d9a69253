"""Batches in shared memory: views that stay what they are, slots that are used again, and nothing left behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from common.loading import ring
from common.loading.plan import Task
from common.loading.ring import Place, Ring, Spec, write
from common.paths import PROJECT
from tests.common.loading.test_loader import assert_same, loader_of, running
from tests.processes import PATIENCE

SHARED = Path("/dev/shm")
SPECS = {
    "labelled": {"image": Spec((3, 2, 2), "<f4"), "label": Spec((2, 2), "|u1")},
    "other": {"image": Spec((1,), "|b1")},
}
TASKS = [Task("labelled", "a", 0, 0, 0), Task("labelled", "b", 0, 0, 1), Task("other", "", 0, 0, 0)]
needs_list = pytest.mark.skipif(not SHARED.is_dir(), reason="looks for blocks in /dev/shm")


def sample_of(task: Task, value: int) -> dict[str, np.ndarray]:
    return {name: np.full(spec.shape, value, spec.dtype) for name, spec in SPECS[task.stream].items()}


def filled(buffer: Ring, value: int = 0):
    filling = buffer.take(TASKS)
    for offset, (task, place) in enumerate(zip(TASKS, filling.places())):
        write(place, sample_of(task, value + offset))
    return filling.batch()


@pytest.fixture
def buffer():
    made = Ring(SPECS)
    yield made
    made.close()


def test_samples_are_where_they_belong(buffer):
    batch = filled(buffer, 5)
    assert batch["labelled"]["ids"] == ["a", "b"] and batch["other"]["ids"] == [""]
    for stream, offset, count in (("labelled", 5, 2), ("other", 7, 1)):
        for name, spec in SPECS[stream].items():
            array = batch[stream][name]
            assert array.shape == (count, *spec.shape) and array.dtype.str == spec.dtype
            expected = [np.full(spec.shape, offset + index, spec.dtype) for index in range(count)]
            np.testing.assert_array_equal(array, expected)
            assert array.ctypes.data % ring.ALIGNMENT == 0 and array.flags.writeable


def test_a_slot_is_used_again_only_when_nothing_refers_to_its_batch(buffer):
    first = filled(buffer, 1)
    kept = first["labelled"]["image"][1:, 0]
    assert len({slot.name for slot in buffer._slots}) == 1
    del first
    gc.collect()
    second = filled(buffer, 10)
    assert len(buffer._slots) == 2 and (kept == 2).all(), "a view of a part keeps the whole slot"
    del kept, second
    gc.collect()
    for value in range(20):
        filled(buffer, value)
    assert len(buffer._slots) == 2


def test_a_slot_that_is_still_written_to_is_not_free(buffer):
    writer: Future = Future()
    filling = buffer.take(TASKS)
    filling.written_by([writer])
    del filling
    buffer.take(TASKS)
    assert len(buffer._slots) == 2
    writer.set_result(None)
    assert buffer._slots[0].is_free()


def test_batches_outlive_their_ring():
    buffer = Ring(SPECS)
    batch = filled(buffer, 3)
    names = [slot.name for slot in buffer._slots]
    buffer.close()
    gc.collect()
    assert (batch["labelled"]["image"][0] == 3).all()
    with pytest.raises(FileNotFoundError):
        write(Place("psm_none", {}), {})
        write(Place(names[0] + "x", {}), {})


def test_other_arrays_than_promised_are_an_error(buffer):
    place = buffer.take(TASKS).places()[0]
    sample = sample_of(TASKS[0], 0)
    for wrong in (
        {"image": sample["image"]},
        sample | {"label": sample["label"].astype(np.int16)},
        sample | {"label": sample["label"][1:]},
    ):
        with pytest.raises(ValueError, match="promises"):
            write(place, wrong)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_batches_of_any_number_of_workers_are_those_of_none(workers):
    expected = list(loader_of().epoch(0))
    with loader_of(f"loader.workers={workers}") as loader:
        batches = list(loader.epoch(0))
        assert all(isinstance(batch["labelled"]["image"].base, ring._Memory) for batch in batches)
        assert_same(batches, expected)
    assert_same(batches, expected)


def test_as_many_slots_as_batches_are_under_way():
    with loader_of("loader.workers=2", "loader.prefetch=2", "trainer.iterations_per_epoch=12") as loader:
        for epoch in range(3):
            for _batch in loader.epoch(epoch):
                pass
        assert len(loader._ring._slots) <= 4


def names_of(loader) -> list[str]:
    return [slot.name for slot in loader._ring._slots]


def left(names: list[str]) -> list[str]:
    return [name for name in names if (SHARED / name).exists()]


@needs_list
def test_nothing_is_left_after_closing():
    with loader_of("loader.workers=1") as loader:
        batch = next(loader.epoch(0))
        names = names_of(loader)
        assert names and left(names) == names
    assert not left(names) and batch["labelled"]["image"].any()


@needs_list
def test_nothing_is_left_of_a_killed_worker():
    with loader_of("loader.workers=2", "trainer.iterations_per_epoch=500") as loader:
        batches = loader.epoch(0)
        next(batches)
        names = names_of(loader)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        with pytest.raises(UserError, match="worker process of the data loader was killed") as caught:
            list(batches)
        assert "\n" not in str(caught.value) and not left(names)


@pytest.mark.parametrize("batches_before", [0, 3])
def test_too_little_shared_memory_is_a_note_and_the_pipe(monkeypatch, capsys, batches_before):
    reserve, made = ring._reserve, []

    def full(block) -> None:
        made.append(block.name)
        if len(made) > batches_before:
            raise OSError(28, "No space left on device")
        reserve(block)

    monkeypatch.setattr(ring, "_reserve", full)
    expected = list(loader_of().epoch(0))
    with loader_of("loader.workers=2") as loader:
        assert_same(list(loader.epoch(0)), expected)
    note = capsys.readouterr().err
    assert note.count("\n") == 1 and "No space left on device" in note and "--shm-size" in note
    assert not left(made)


SCRIPT = """
import multiprocessing, os, signal, sys
sys.path.insert(0, {project!r})
from tests.common.loading.test_loader import loader_of

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
    with loader_of("loader.workers=2", "trainer.iterations_per_epoch=500") as loader:
        for _ in loader.epoch(0):
            print(*(slot.name for slot in loader._ring._slots))
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
            {end}
"""
ENDS = {
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT, "KeyboardInterrupt"),
    "an error": ("raise SystemExit(3)", 3, ""),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
    "no closing": ("loader.__class__.__exit__ = lambda *_: None; break", 0, ""),
}


@needs_list
@pytest.mark.parametrize("how", ENDS)
def test_nothing_is_left_however_the_process_ends(tmp_path, how):
    end, code, said = ENDS[how]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(project=str(PROJECT), end=end))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == code, done.stderr
    names, pids = (line.split() for line in done.stdout.splitlines()[:2])
    deadline = time.monotonic() + PATIENCE
    while (left(names) or any(running(int(pid)) for pid in pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert names and not left(names) and not any(running(int(pid)) for pid in pids)
    if how != "SIGKILL":
        assert "resource_tracker" not in done.stderr and "Exception ignored" not in done.stderr
    assert said in done.stderr
