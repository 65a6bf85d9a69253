"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import stat
import sys

import numpy as np
import pytest

from common import files
from common.checkpoints.checkpoint import read
from common.checkpoints.ckpt_file import read_ckpt
from common.command_line import run_command
from common.config.layers import dataset_config
from common.config.yaml_files import read_yaml
from common.datasets.lists import read_list
from common.errors import UserError
from common.evaluation.results import read_result
from common.files import (
    atomic_folder,
    atomic_path,
    read_bytes,
    read_json,
    sha256,
    write_array_atomic,
    write_json_atomic,
    write_text_atomic,
)
from common.images.picture import read_indices, read_rgb
from common.methods.pcr.first_prototypes import read_prototypes
from common.methods.pcr.pcr import PCRSettings
from common.paths import PROJECT, data_root, weights_path
from common.runs.run_folder import RunFolder
from onnx_impl.predictor import contents_of
from tests.processes import PATIENCE


def test_write_makes_folders_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a" / "b" / "note.txt"
    write_text_atomic(path, "grün\n")
    assert path.read_bytes() == "grün\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_temporary_lies_beside_and_keeps_the_suffix(tmp_path):
    with atomic_path(tmp_path / "x.npy") as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".npy" and temporary.name != "x.npy"
        assert not (tmp_path / "x.npy").exists()
        temporary.write_bytes(b"1")
    assert (tmp_path / "x.npy").read_bytes() == b"1"


def test_failure_keeps_the_old_file_and_removes_the_temporary(tmp_path):
    path = tmp_path / "best.bin"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), atomic_path(path) as temporary:
        temporary.write_text("new, but not all of")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_an_ordinary_file_or_of_the_replaced_one(tmp_path):
    fresh, shared = tmp_path / "fresh", tmp_path / "shared"
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    shared.touch(0o640)
    os.chmod(shared, 0o640)
    write_text_atomic(fresh, "")
    write_text_atomic(shared, "")
    assert stat.S_IMODE(fresh.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o640


def test_a_folder_in_the_way_is_bad_use(tmp_path, capsys):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "below.txt"):
        assert run_command(lambda _, path=path: write_text_atomic(path, "x")) == 2
        captured = capsys.readouterr().err
        assert captured.count("\n") == 1 and f"cannot write {path}" in captured


def interrupted_at(moment: int, write) -> bool:
    """Run ``write`` and raise KeyboardInterrupt before the ``moment``-th instruction of common/files.py; whether it came to that."""
    left = [moment]

    def trace(frame, event, _argument):
        if frame.f_code.co_filename != files.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        write()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_signal_at_any_moment_leaves_the_old_or_the_new_file_and_no_other(tmp_path, old):
    path, moment, contents = tmp_path / "file.txt", 0, set()
    while True:
        path.unlink(missing_ok=True) if old is None else path.write_bytes(old)
        moment += 1
        came = interrupted_at(moment, lambda: write_text_atomic(path, "new"))
        assert set(tmp_path.iterdir()) <= {path}, f"instruction {moment}"
        contents.add(path.read_bytes() if path.exists() else None)
        if not came:
            break
    assert moment > 100 and contents == {old, b"new"}


@pytest.mark.parametrize("old", [None, "old"])
def test_a_signal_at_any_moment_leaves_the_old_or_the_new_folder(tmp_path, old):
    path, moment, contents = tmp_path / "model", 0, set()

    def write() -> None:
        with atomic_folder(path) as part:
            (part / "a").write_text("new")
            (part / "b").write_text("new")

    while True:
        shutil.rmtree(path, ignore_errors=True)
        if old:
            path.mkdir()
            (path / "a").write_text(old)
        moment += 1
        came = interrupted_at(moment, write)
        contents.add(tuple(file.read_text() for file in sorted(path.iterdir())) if path.exists() else None)
        # Only where the signal comes while the old folder is being removed, it is left to the next one.
        assert {file.name for file in tmp_path.iterdir()} <= {"model", ".model.old"} - (
            {".model.old"} if not old else set()
        )
        if not came:
            break
    assert moment > 100 and contents == {("old",) if old else None, ("new", "new")}
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_fails_stays_as_it_was_and_what_a_killed_process_left_is_mended(tmp_path, capsys):
    path = tmp_path / "model"
    with pytest.raises(RuntimeError), atomic_folder(path) as part:
        (part / "a").write_text("half")
        raise RuntimeError("half way")
    assert not list(tmp_path.iterdir())
    (tmp_path / ".model.old").mkdir()  # killed between taking the old folder away and putting the new one there
    (tmp_path / ".model.old" / "a").write_text("old")
    (tmp_path / ".model.part").mkdir()
    with pytest.raises(RuntimeError), atomic_folder(path):
        raise RuntimeError("half way")
    assert (path / "a").read_text() == "old" and list(tmp_path.iterdir()) == [path]
    (tmp_path / "file").touch()
    assert run_command(lambda _: atomic_folder(tmp_path / "file").__enter__()) == 2
    assert "there is a file of this name" in capsys.readouterr().err


def test_a_name_as_long_as_the_file_system_allows(tmp_path):
    for name in ("x" * 251 + ".png", "\u00e4" * 125 + ".png"):
        write_text_atomic(tmp_path / name, "new")
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_what_is_no_ordinary_file_is_not_replaced(tmp_path, capsys):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert run_command(lambda _: write_text_atomic(pipe, "x")) == 2
    assert f"cannot write {pipe}: it is not an ordinary file" in capsys.readouterr().err
    assert stat.S_ISFIFO(pipe.stat().st_mode) and list(tmp_path.iterdir()) == [pipe]


def test_a_full_disk_names_the_file_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_text("old")
    with pytest.raises(OSError) as caught, atomic_path(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path) and not isinstance(caught.value, UserError)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_json_round_trip_and_refusal_of_nan(tmp_path):
    path = tmp_path / "result.json"
    write_json_atomic(path, {"miou": 0.5, "name": "ö"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"miou": 0.5, "name": "ö"}
    with pytest.raises(ValueError):
        write_json_atomic(path, {"miou": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["miou"] == 0.5


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 0, 3), np.uint8),
        np.float32(4),
        np.arange(6, dtype=">i2").reshape(2, 3).T,
        np.arange(24.0).reshape(2, 3, 4)[:, ::2],
    ],
)
def test_arrays_are_what_numpy_reads(tmp_path, array):
    write_array_atomic(tmp_path / "a.npy", np.asarray(array))
    loaded = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert loaded.dtype == array.dtype and np.array_equal(loaded, array)


def test_an_error_without_a_number_names_the_file_and_the_reason(tmp_path, capsys):
    def main(_arguments):
        with atomic_path(tmp_path / "a.npy"):
            raise OSError("8192 requested and 0 written")

    assert run_command(main) == 2
    assert f"error: {tmp_path / 'a.npy'}: 8192 requested and 0 written" in capsys.readouterr().err


READERS = {
    "bytes": read_bytes, "json": read_json, "yaml": read_yaml, "result": read_result, "ckpt": read_ckpt,
    "picture": read_rgb, "label": read_indices, "list": lambda path: read_list(path, dataset_config("voc_mini")),
    "prototypes": lambda path: read_prototypes(PCRSettings(proto_init="file", proto_file=str(path)), (3, 2, 5)),
    "checkpoint": read, "graph": contents_of, "log": lambda path: RunFolder(path.parent).entries(),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_ordinary_file_is_refused_and_not_waited_for(reader, kind, tmp_path):
    path = tmp_path / ("log.jsonl" if reader == "log" else "file")
    {
        "pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero"), "folder": path.mkdir,
    }[kind]()  # fmt: skip

    def hung(*_) -> None:
        pytest.fail("it waits")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(PATIENCE)
    try:
        with pytest.raises((OSError, UserError)):
            READERS[reader](path)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_json_that_is_nested_too_deeply_is_no_json(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "deep.json")


def test_sha256_reads_the_whole_file(tmp_path):
    data = bytes(range(256)) * 10_000
    (tmp_path / "large").write_bytes(data)
    assert sha256(tmp_path / "large") == hashlib.sha256(data).hexdigest()
    assert sha256(tmp_path / "large") != hashlib.sha256(data[: 1 << 20]).hexdigest()


def test_data_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("DATA_ROOT", raising=False)
    assert data_root() == PROJECT / "data"
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    assert data_root() == tmp_path


def test_weights_are_looked_for_here_then_in_the_weights_root(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEIGHTS_ROOT", str(tmp_path / "store"))
    assert weights_path("trunk.safetensors") == tmp_path / "store" / "trunk.safetensors"
    (tmp_path / "trunk.safetensors").touch()
    assert weights_path("trunk.safetensors") == tmp_path / "trunk.safetensors"
    assert weights_path("/else/x.pth").as_posix() == "/else/x.pth"
    monkeypatch.delenv("WEIGHTS_ROOT")
    assert weights_path("absent.pth") == PROJECT / "weights" / "absent.pth"
