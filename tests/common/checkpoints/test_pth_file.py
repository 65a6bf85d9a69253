"""PyTorch's file formats read without PyTorch: equal to PyTorch, and closed to code and damage."""

import argparse
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from common.checkpoints.pth_file import LEGACY_MAGIC, LEGACY_PROTOCOL, read_pth
from common.errors import UserError


class RunsCode:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def zip_of(path, payload, **files):
    """A zip archive as torch.save lays it out, with a pickle of ``payload`` and further files."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "archive/data.pkl", payload if isinstance(payload, bytes) else pickle.dumps(payload, protocol=2)
        )
        for name, content in files.items():
            archive.writestr(f"archive/{name}", content)


def tensor_pickle(size, stride, offset=0, count=4, storage="FloatStorage"):
    """The pickle of one tensor, written out by hand so that it can be wrong."""
    numbers = [pickle.dumps(value, protocol=2)[2:-1] for value in (count, offset, size, stride)]
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n" + storage.encode()
        + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + numbers[0] + b"tQ" + numbers[1] + numbers[2] + numbers[3]
        + b"\x89ccollections\nOrderedDict\n)RtR."
    )  # fmt: skip


STORAGE = np.arange(4, dtype=np.float32)


def test_a_tensor_is_rebuilt_from_storage_shape_and_stride(tmp_path):
    zip_of(tmp_path / "a.pth", tensor_pickle((2, 2), (1, 2)), **{"data/0": STORAGE.tobytes()})
    found = read_pth(tmp_path / "a.pth")
    np.testing.assert_array_equal(found, [[0, 2], [1, 3]])
    found[0] = 5
    zip_of(tmp_path / "b.pth", tensor_pickle((), (), offset=3), **{"data/0": STORAGE.tobytes()})
    assert read_pth(tmp_path / "b.pth").shape == ()
    assert read_pth(tmp_path / "b.pth") == 3


def test_big_endian_archives_are_swapped(tmp_path):
    files = {"data/0": STORAGE.astype(">f4").tobytes(), "byteorder": b"big"}
    zip_of(tmp_path / "a.pth", tensor_pickle((4,), (1,)), **files)
    found = read_pth(tmp_path / "a.pth")
    np.testing.assert_array_equal(found, STORAGE)
    assert found.dtype == np.dtype("=f4")


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": (5,), "stride": (1,)}, {"size": (2, 2), "stride": (1, 3)}, {"size": (1,), "stride": (1,), "offset": 4},
        {"size": (2,), "stride": (-1,), "offset": 1}, {"size": (1,), "stride": (1,), "offset": -1},
        {"size": (2,), "stride": (1, 1)}, {"size": (1,), "stride": (1,), "count": 5},
    ],
)  # fmt: skip
def test_a_tensor_outside_its_storage_is_refused(tmp_path, arguments):
    zip_of(tmp_path / "a.pth", tensor_pickle(**arguments), **{"data/0": STORAGE.tobytes()})
    with pytest.raises(UserError, match="a.pth is not a readable PyTorch file"):
        read_pth(tmp_path / "a.pth")


def test_numpy_scalars_become_plain_numbers(tmp_path):
    values = {"best": np.float64(0.75), "epoch": np.int64(-3), "flag": np.bool_(True), "plain": [1, "a", None, (2.5,)]}
    zip_of(tmp_path / "a.pth", values)
    found = read_pth(tmp_path / "a.pth")
    assert found == {"best": 0.75, "epoch": -3, "flag": True, "plain": [1, "a", None, [2.5]]}
    assert type(found["best"]) is float and type(found["epoch"]) is int


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, legacy):
    path, trace = tmp_path / "a.pth", tmp_path / "trace"
    if legacy:
        path.write_bytes(pickle.dumps(RunsCode(trace), protocol=2))
    else:
        zip_of(path, {"model": RunsCode(trace)})
    with pytest.raises(UserError, match=r"a.pth: loading it would run (posix|nt).mkdir.*refused.*--unsafe"):
        read_pth(path)
    assert not trace.exists()


def test_unsafe_runs_it(tmp_path):
    zip_of(tmp_path / "a.pth", {"model": RunsCode(tmp_path / "trace"), "args": argparse.Namespace(lr=1)})
    found = read_pth(tmp_path / "a.pth", unsafe=True)
    assert (tmp_path / "trace").is_dir()
    assert found["args"].lr == 1


@pytest.mark.parametrize("value", [argparse.Namespace(a=1), np.zeros(2), {1, 2}, complex(1)])
def test_other_objects_are_refused(tmp_path, value):
    zip_of(tmp_path / "a.pth", {"value": value})
    with pytest.raises(UserError, match="refused"):
        read_pth(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "content", [b"", b"text", b"PK\x03\x04nothing more", b"\x80\x02}", b"\x80\x02K\x01.", b"\x80\x02]q\x00h\x05."]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"^\S+a.pth is (not a|a Python pickle)"):
        read_pth(tmp_path / "a.pth")


def test_torchscript_and_other_archives_are_refused(tmp_path):
    zip_of(tmp_path / "script.pth", {}, **{"constants.pkl": b""})
    with pytest.raises(UserError, match="TorchScript"):
        read_pth(tmp_path / "script.pth")
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match="not a checkpoint"):
        read_pth(tmp_path / "a.pth")


def test_a_legacy_storage_larger_than_the_file_is_refused(tmp_path):
    parts = [LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": True}]
    head = b"".join(pickle.dumps(part, protocol=2) for part in parts)
    tail = pickle.dumps(["0"], protocol=2) + struct.pack("<q", 4) + STORAGE.tobytes()
    # The legacy reference of a storage has a sixth item, the view.
    good = tensor_pickle((4,), (1,)).replace(b"tQ", b"NtQ")
    (tmp_path / "a.pth").write_bytes(head + good + tail)
    np.testing.assert_array_equal(read_pth(tmp_path / "a.pth"), STORAGE)
    bad = tensor_pickle((4,), (1,), count=2**40).replace(b"tQ", b"NtQ")
    (tmp_path / "a.pth").write_bytes(head + bad + tail)
    with pytest.raises(UserError, match="larger than the file"):
        read_pth(tmp_path / "a.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_writes_is_read(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    shared = torch.randn(4, 5)
    tensors = OrderedDict(
        weight=shared, transposed=shared.t(), row=shared[1:3, 2], parameter=torch.nn.Parameter(torch.randn(2)),
        half=torch.randn(3).half(), double=torch.randn(3).double(), long=torch.tensor(2**40),
        byte=torch.arange(9).byte(),
        flag=torch.tensor([True, False]), empty=torch.zeros(0, 4), int=torch.arange(3).int(),
    )  # fmt: skip
    tensors._metadata = OrderedDict(version=2)
    payload = {
        "state_dict": tensors,
        "epoch": 3,
        "best": np.float64(0.5),
        "optimizer": {"lr": [0.1], "betas": (0.9, 0.99)},
    }
    torch.save(payload, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    found = read_pth(tmp_path / "a.pth")
    assert list(found["state_dict"]) == list(tensors)
    for name, tensor in tensors.items():
        wanted, array = tensor.detach().numpy(), found["state_dict"][name]
        assert array.dtype == wanted.dtype and array.shape == wanted.shape and array.flags.c_contiguous, name
        np.testing.assert_array_equal(array, wanted)
    assert (found["epoch"], found["best"]) == (3, 0.5)
    assert found["optimizer"] == {"lr": [0.1], "betas": [0.9, 0.99]}


def test_bfloat16_of_torch_is_widened(tmp_path):
    torch = pytest.importorskip("torch")
    values = torch.tensor([1.5, -2.0, 3.140625])
    torch.save({"a": values.bfloat16()}, tmp_path / "a.pth")
    found = read_pth(tmp_path / "a.pth")["a"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.numpy())


@pytest.mark.parametrize("zipped", [True, False])
def test_cut_or_damaged_files_of_torch_are_refused(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.randn(50)}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    data = (tmp_path / "a.pth").read_bytes()
    for length in range(1, len(data), 37):
        (tmp_path / "cut.pth").write_bytes(data[:length])
        with pytest.raises(UserError) as raised:
            read_pth(tmp_path / "cut.pth")
        assert "\n" not in str(raised.value)


def test_a_module_saved_whole_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(UserError, match="would run torch.nn.modules.linear.Linear"):
        read_pth(tmp_path / "a.pth")
