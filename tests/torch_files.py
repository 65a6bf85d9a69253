"""Files of PyTorch's formats made by hand, so that they can be wrong or hostile."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile

import numpy as np


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


def tar_of(path, arrays=None, **members: bytes) -> None:
    """A file of the first versions of torch.save: arrays by name, each with a storage of its own."""
    arrays = {"a": STORAGE} if arrays is None else arrays
    types = {"f4": "FloatStorage", "i8": "LongStorage", "u1": "ByteStorage"}
    storages = tensors = pickle.dumps(len(arrays), protocol=2)
    references = b""
    for key, (name, array) in enumerate(arrays.items()):
        storage, tensor = bytes([key]), bytes([100 + key])
        kind = types[array.dtype.str[1:]].encode()
        storages += b"\x80\x02K" + storage + b"X\x03\0\0\0cpuctorch\n" + kind + b"\n\x87."
        storages += struct.pack("<q", array.size) + array.tobytes()
        tensors += b"\x80\x02K" + tensor + b"K" + storage + b"ctorch\nFloatTensor\n\x87."
        strides = [step // array.itemsize for step in array.strides]
        tensors += struct.pack(f"<ii{2 * array.ndim}qq", array.ndim, 0, *array.shape, *strides, 0)
        references += pickle.dumps(name, protocol=2)[2:-1] + b"K" + tensor + b"Q"
    storages += pickle.dumps([], protocol=2)
    files = {"sys_info": b"", "storages": storages, "tensors": tensors, "pickle": b"\x80\x02}(" + references + b"u."}
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (files | members).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
