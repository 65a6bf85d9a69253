"""PyTorch's file formats read without PyTorch: equal to PyTorch, and closed to code and damage."""

import argparse
import pickle
import struct
import tarfile
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest

from common.checkpoints.checkpoint import read
from common.checkpoints.pth_file import LEGACY_MAGIC, LEGACY_PROTOCOL, read_pth
from common.errors import UserError
from tests.torch_files import STORAGE, RunsCode, tar_of, tensor_pickle, zip_of


def test_a_tensor_is_rebuilt_from_storage_shape_and_stride(tmp_path):
    zip_of(tmp_path / "a.pth", tensor_pickle((2, 2), (1, 2)), **{"data/0": STORAGE.tobytes()})
    tensor = read_pth(tmp_path / "a.pth")
    np.testing.assert_array_equal(tensor, [[0, 2], [1, 3]])
    tensor[0] = 5
    zip_of(tmp_path / "b.pth", tensor_pickle((), (), offset=3), **{"data/0": STORAGE.tobytes()})
    assert read_pth(tmp_path / "b.pth").shape == ()
    assert read_pth(tmp_path / "b.pth") == 3


def test_big_endian_archives_are_swapped(tmp_path):
    files = {"data/0": STORAGE.astype(">f4").tobytes(), "byteorder": b"big"}
    zip_of(tmp_path / "a.pth", tensor_pickle((4,), (1,)), **files)
    tensor = read_pth(tmp_path / "a.pth")
    np.testing.assert_array_equal(tensor, STORAGE)
    assert tensor.dtype == np.dtype("=f4")


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
    loaded = read_pth(tmp_path / "a.pth")
    assert loaded == {"best": 0.75, "epoch": -3, "flag": True, "plain": [1, "a", None, [2.5]]}
    assert type(loaded["best"]) is float and type(loaded["epoch"]) is int


ARRAYS = {
    "weight": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32),
    "steps": np.array([2**40, -1], np.int64),
    "scalar": np.zeros((1,), np.uint8),
}


def test_the_tar_archive_of_the_first_versions_is_read(tmp_path):
    tar_of(tmp_path / "a.pth", ARRAYS)
    tensors = read_pth(tmp_path / "a.pth")
    assert list(tensors) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert tensors[name].dtype == array.dtype and tensors[name].flags.writeable
        np.testing.assert_array_equal(tensors[name], array)


def test_pytorch_reads_the_same_from_such_a_tar_archive(tmp_path):
    torch = pytest.importorskip("torch")
    tar_of(tmp_path / "a.pth", {name: ARRAYS[name] for name in ("weight", "steps")})
    theirs = torch.load(tmp_path / "a.pth", weights_only=False)
    for name, array in read_pth(tmp_path / "a.pth").items():
        np.testing.assert_array_equal(theirs[name].numpy(), array)


def test_other_tar_archives_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.pth", "w") as archive:
        archive.add(__file__, "notes.py")
    with pytest.raises(UserError, match="is a tar archive that torch.save did not write"):
        read_pth(tmp_path / "a.pth")


def test_tensors_of_old_versions_are_rebuilt(tmp_path):
    first = tensor_pickle((2, 2), (1, 2)).replace(b"_rebuild_tensor_v2", b"_rebuild_tensor")
    first = first.replace(b"\x89ccollections\nOrderedDict\n)Rt", b"t")
    older = (
        b"\x80\x02ctorch\nFloatTensor\n)\x81((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu"
        b"K\x04tQK\0K\x02K\x02\x86K\x01K\x02\x86tb."
    )
    variable = b"\x80\x02ctorch.nn.parameter\nParameter\n" + first[2:-1] + b"\x85\x81\x88\x89}\x87b."
    for name, content in {"first": first, "older": older, "variable": variable}.items():
        zip_of(tmp_path / f"{name}.pth", content, **{"data/0": STORAGE.tobytes()})
        np.testing.assert_array_equal(read_pth(tmp_path / f"{name}.pth"), [[0, 2], [1, 3]], err_msg=name)


def test_plain_values_of_torch_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    values = {
        "size": torch.Size([3, 4]), "device": torch.device("cuda", 1), "dtype": torch.float16, "ids": {1, 2},
        "layout": torch.strided, "complex": 1 + 2j, "array": bytearray(b"ab"), "counter": Counter("aab"),
        "numbers": torch.tensor([1 + 2j]), "wide": torch.tensor([0, 1, 2], dtype=torch.uint16),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    torch.save(values, tmp_path / "a.pth")
    assert torch.load(tmp_path / "a.pth", weights_only=True).keys() == values.keys()
    loaded = read_pth(tmp_path / "a.pth")
    assert loaded["size"] == [3, 4] and str(loaded["device"]) == "cuda:1" and str(loaded["dtype"]) == "torch.float16"
    assert loaded["ids"] == [1, 2] and str(loaded["layout"]) == "torch.strided" and loaded["complex"] == 1 + 2j
    assert loaded["array"] == b"ab" and loaded["counter"] == {"a": 2, "b": 1}
    np.testing.assert_array_equal(loaded["numbers"], values["numbers"].numpy())
    np.testing.assert_array_equal(loaded["wide"], [0, 1, 2])
    np.testing.assert_array_equal(loaded["parameter"], [1, 1])


def test_numbers_and_text_of_python_2_are_read(tmp_path):
    raw = np.float64(0.75).tobytes()
    scalar = b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02f8K\0K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    content = b"\x80\x02}(U\x04best" + scalar + b"U\x08" + raw + b"\x86RU\x04textU\x02\xe9!u."
    zip_of(tmp_path / "a.pth", content)
    assert read_pth(tmp_path / "a.pth") == {"best": 0.75, "text": "\ufffd!"}


def runs_code(form: str, path, trace) -> None:
    """A file of each form that makes a folder when it is unpickled."""
    hostile = pickle.dumps({"model": RunsCode(trace)}, protocol=4 if form == "protocol 4" else 2)
    if form.startswith("tar"):
        tar_of(path, **{form.removeprefix("tar "): hostile})
    elif form == "stream":
        parts = [pickle.dumps(part, protocol=2) for part in (LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": True})]
        path.write_bytes(b"".join(parts) + hostile)
    elif form == "pickle":
        path.write_bytes(hostile)
    else:
        zip_of(path, hostile)


@pytest.mark.parametrize("form", ["zip", "protocol 4", "stream", "pickle", "tar storages", "tar tensors", "tar pickle"])
@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".safetensors"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, form, suffix):
    path, trace = tmp_path / f"a{suffix}", tmp_path / "trace"
    runs_code(form, path, trace)
    with pytest.raises(UserError, match=r"a\..*: loading it would run (posix|nt).mkdir.*refused.*--unsafe"):
        read(path)
    assert not trace.exists()


HOSTILE = {
    "a global of a part of torch": b"\x80\x02ctorch.serialization\nload\n.",
    "a dotted name": b"\x80\x04\x8c\x0bcollections\x8c\x15OrderedDict.fromkeys.x\x93.",
    "a state for a function": b"\x80\x02ctorch._utils\n_rebuild_parameter\n}U\x01aK\x01sb.",
    "a state for a class": b"\x80\x02ccollections\nOrderedDict\nN}U\x01aK\x01s\x86b.",
    "a new class": b"\x80\x02ctorch\nSize\nU\x01a\x85\x85\x81b.",
    "the registry of other programs": b"\x80\x02\x82\x01.",
    "a place in a memo of 32 GB": b"\x80\x02K\x01r\xff\xff\xff\x7fj\xff\xff\xff\x7e.",
    "a bytearray of 16 GB": b"\x80\x05\x96\0\0\0\0\x04\0\0\0.",
    "a bytearray of a number": b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\0\0\0\0\0\x10\x85R.",
    "lists within lists": b"\x80\x02]" + b"".join(b"q" + bytes([n]) + b"](" + (b"h" + bytes([n])) * 10 + b"e" for n in range(40)) + b".",
    "a list of itself": b"\x80\x02]q\0h\0a.",
    "a deep list": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_only_a_hostile_pickle_holds_is_refused_in_one_line(tmp_path, name, monkeypatch):
    monkeypatch.setattr("common.checkpoints.pickles.MOST_ITEMS", 100_000)  # counting to the real one takes seconds
    zip_of(tmp_path / "a.pth", HOSTILE[name])
    with pytest.raises(UserError, match=r"a.pth(: loading it would run| is not a readable PyTorch file)") as caught:
        read_pth(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)


def test_a_small_file_cannot_become_a_large_tensor(tmp_path):
    bad = tensor_pickle((2**20, 2**20), (0, 0))
    zip_of(tmp_path / "a.pth", bad, **{"data/0": STORAGE.tobytes()})
    with pytest.raises(UserError, match="far more memory than the file has bytes"):
        read_pth(tmp_path / "a.pth")
    zip_of(tmp_path / "b.pth", tensor_pickle((100, 4), (0, 1)), **{"data/0": STORAGE.tobytes()})
    np.testing.assert_array_equal(read_pth(tmp_path / "b.pth"), np.tile(STORAGE, (100, 1)))


def test_unsafe_runs_it(tmp_path):
    zip_of(tmp_path / "a.pth", {"model": RunsCode(tmp_path / "trace"), "args": argparse.Namespace(lr=1)})
    loaded = read_pth(tmp_path / "a.pth", unsafe=True)
    assert (tmp_path / "trace").is_dir()
    assert loaded["args"].lr == 1


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_unsafe_reads_numpy_arrays_of_any_version(tmp_path, core):
    values = {"array": np.arange(6.0).reshape(2, 3), "best": np.float64(0.5), "names": np.array(["a", "b"], object)}
    content = pickle.dumps(values, protocol=2)
    zip_of(tmp_path / "a.pth", content.replace(b"numpy.core", core.encode()).replace(b"numpy._core", core.encode()))
    with pytest.raises(UserError, match="would run numpy._?core.multiarray._reconstruct.*refused.*--unsafe"):
        read_pth(tmp_path / "a.pth")
    loaded = read_pth(tmp_path / "a.pth", unsafe=True)
    np.testing.assert_array_equal(loaded["array"], values["array"])
    assert loaded["best"] == 0.5 and loaded["names"] == ["a", "b"]


def test_unsafe_says_which_program_is_missing(tmp_path):
    zip_of(tmp_path / "a.pth", b"\x80\x02cno_such_program.nets\nNet\n)\x81.")
    with pytest.raises(UserError, match="needs no_such_program.nets.Net, which cannot be imported here"):
        read_pth(tmp_path / "a.pth", unsafe=True)


def test_unsafe_takes_the_tensors_of_a_module_saved_whole(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1, bias=False), torch.nn.BatchNorm2d(3))
    torch.save({"model": module, "epoch": 3}, tmp_path / "a.pth")
    loaded = read_pth(tmp_path / "a.pth", unsafe=True)
    assert loaded["model"].keys() == module.state_dict().keys() and loaded["epoch"] == 3
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(loaded["model"][name], tensor.numpy())


@pytest.mark.parametrize("value", [argparse.Namespace(a=1), np.zeros(2)])
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
    with pytest.raises(UserError, match="a storage has 16 bytes instead of 4398046511104"):
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
    loaded = read_pth(tmp_path / "a.pth")
    assert list(loaded["state_dict"]) == list(tensors)
    for name, tensor in tensors.items():
        wanted, array = tensor.detach().numpy(), loaded["state_dict"][name]
        assert array.dtype == wanted.dtype and array.shape == wanted.shape and array.flags.c_contiguous, name
        np.testing.assert_array_equal(array, wanted)
    assert (loaded["epoch"], loaded["best"]) == (3, 0.5)
    assert loaded["optimizer"] == {"lr": [0.1], "betas": [0.9, 0.99]}


def test_bfloat16_of_torch_is_widened(tmp_path):
    torch = pytest.importorskip("torch")
    values = torch.tensor([1.5, -2.0, 3.140625])
    torch.save({"a": values.bfloat16()}, tmp_path / "a.pth")
    widened = read_pth(tmp_path / "a.pth")["a"]
    assert widened.dtype == np.float32
    np.testing.assert_array_equal(widened, values.numpy())


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
