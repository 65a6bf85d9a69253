"""MindSpore's file format, against MindSpore itself and against damage."""

import os
import stat

import numpy as np
import pytest

from common.checkpoints import ckpt_file
from common.checkpoints.ckpt_file import read_ckpt, write_ckpt
from common.checkpoints.protobuf import fields
from common.errors import UserError

RNG = np.random.default_rng(0)
ARRAYS = {
    "float32": RNG.standard_normal((3, 4, 1, 2)).astype(np.float32),
    "scalar": np.array(2.5, np.float32),
    "int64 scalar": np.array(2**40, np.int64),
    "one": np.array([7.0], np.float32),
    "float64": np.array([1 / 3]),
    "float16": np.array([1.5, -0.25], np.float16),
    "bool": np.array([[True, False]]),
    "uint8": np.arange(256, dtype=np.uint8),
    "int32": np.array([-5, 5], np.int32),
    "not contiguous": np.arange(12, dtype=np.float32).reshape(3, 4).T,
}


def assert_same(tensors, wanted):
    assert list(tensors) == list(wanted)
    for name, array in wanted.items():
        assert tensors[name].dtype == array.dtype and tensors[name].shape == array.shape, name
        np.testing.assert_array_equal(tensors[name], array)


def test_round_trip_is_exact(tmp_path):
    arrays = ARRAYS | {"empty": np.zeros((0, 4), np.float32), "empty vector": np.zeros(0, np.float32)}
    write_ckpt(tmp_path / "a.ckpt", arrays)
    loaded = read_ckpt(tmp_path / "a.ckpt")
    assert_same(loaded, arrays)
    loaded["float32"][0] = 0
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "a.ckpt").stat().st_mode) == 0o666 & ~umask


def test_large_tensors_are_split_and_joined(tmp_path, monkeypatch):
    write_ckpt(tmp_path / "whole.ckpt", ARRAYS)
    monkeypatch.setattr(ckpt_file, "SLICE_BYTES", 16)
    write_ckpt(tmp_path / "split.ckpt", ARRAYS)
    assert (tmp_path / "split.ckpt").stat().st_size > (tmp_path / "whole.ckpt").stat().st_size + 100
    assert_same(read_ckpt(tmp_path / "split.ckpt"), ARRAYS)


def test_every_cut_is_noticed_or_drops_whole_tensors(tmp_path):
    write_ckpt(tmp_path / "a.ckpt", ARRAYS)
    data = (tmp_path / "a.ckpt").read_bytes()
    refused = 0
    for length in range(len(data)):
        (tmp_path / "cut.ckpt").write_bytes(data[:length])
        try:
            loaded = read_ckpt(tmp_path / "cut.ckpt")
        except UserError:
            refused += 1
        else:
            assert_same(loaded, dict(list(ARRAYS.items())[: len(loaded)]))
    assert refused > len(data) - len(ARRAYS) - 1


def test_a_flipped_bit_is_noticed(tmp_path):
    write_ckpt(tmp_path / "a.ckpt", ARRAYS)
    data = bytearray((tmp_path / "a.ckpt").read_bytes())
    data[60] ^= 1
    (tmp_path / "a.ckpt").write_bytes(data)
    with pytest.raises(UserError, match="CRC"):
        read_ckpt(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04N.", b"PK\x03\x04 something", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="a.ckpt is not a readable MindSpore checkpoint"):
        read_ckpt(tmp_path / "a.ckpt")


def test_zeros_are_no_message():
    """A file with a hole at its end would else be walked byte by byte."""
    assert list(fields(memoryview(b"\x08\x05"))) == [(1, 5)]
    with pytest.raises(ValueError, match="byte 2 begins no field"):
        list(fields(memoryview(b"\x08\x05" + bytes(4))))


def test_a_shape_that_does_not_fit_its_bytes_is_refused(tmp_path):
    pieces = b"".join(bytes(piece) for piece in ckpt_file._encoded("a", (3,), "Float32", memoryview(bytes(8))))
    (tmp_path / "a.ckpt").write_bytes(pieces)
    with pytest.raises(UserError, match=r"a has 2 values for the shape \[3\]"):
        read_ckpt(tmp_path / "a.ckpt")


def test_mindspore_reads_what_is_written(tmp_path):
    mindspore = pytest.importorskip("mindspore")
    write_ckpt(tmp_path / "a.ckpt", ARRAYS)
    parameters = mindspore.load_checkpoint(str(tmp_path / "a.ckpt"), crc_check=True)
    assert_same({name: parameter.asnumpy() for name, parameter in parameters.items()}, ARRAYS)


@pytest.mark.parametrize("crc", [True, False])
def test_what_mindspore_writes_is_read(tmp_path, crc):
    mindspore = pytest.importorskip("mindspore")
    entries = [{"name": name, "data": mindspore.Tensor(array)} for name, array in ARRAYS.items()]
    entries.append({"name": "bfloat16", "data": mindspore.Tensor(np.array([1.5, -2], np.float32), mindspore.bfloat16)})
    path = tmp_path / "a.ckpt"
    mindspore.save_checkpoint(entries, str(path), crc_check=crc, append_dict={"epoch": 3, "note": "text"})
    assert path.read_bytes()[-17:-10] == b"crc_num" or not crc
    loaded = read_ckpt(path)
    assert (int(loaded.pop("epoch")), loaded.pop("note")) == (3, "text")
    assert_same(loaded, ARRAYS | {"bfloat16": np.array([1.5, -2], np.float32)})


def test_mindspore_slices_are_joined(tmp_path, monkeypatch):
    mindspore = pytest.importorskip("mindspore")
    monkeypatch.setattr(mindspore.train.serialization, "SLICE_SIZE", 1)
    array = RNG.standard_normal((100, 7)).astype(np.float32)
    entries = [{"name": "large", "data": mindspore.Tensor(array)}, {"name": "next", "data": mindspore.Tensor(array[0])}]
    mindspore.save_checkpoint(entries, str(tmp_path / "a.ckpt"))
    assert (tmp_path / "a.ckpt").read_bytes().count(b"large") > 1
    assert_same(read_ckpt(tmp_path / "a.ckpt"), {"large": array, "next": array[0]})
