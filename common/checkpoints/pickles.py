"""Pickles of tensors and plain values, read without PyTorch and without running what they ask for.

A pickle is a program: it names functions and calls them. Here it may name those that PyTorch itself writes beside tensors
and plain values (what ``torch.load(weights_only=True)`` allows); each is replaced by a stand-in of this file.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.errors import UserError
from common.networks.tensors import widen_bfloat16

STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bfloat16",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1",
    "ByteStorage": "u1", "BoolStorage": "?", "ComplexFloatStorage": "c8", "ComplexDoubleStorage": "c16",
    "UntypedStorage": "u1",
}  # fmt: skip
"""PyTorch's storage classes and the type code of their elements."""
DTYPES = {
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "bfloat16", "int64": "i8", "int32": "i4",
    "int16": "i2", "int8": "i1", "uint8": "u1", "bool": "?", "complex64": "c8", "complex128": "c16", "uint16": "u2",
    "uint32": "u4", "uint64": "u8",
}  # fmt: skip
TENSOR_TYPES = tuple(f"{name.removesuffix('Storage')}Tensor" for name in STORAGES) + ("Tensor",)
"""What PyTorch before 0.4 calls the classes of its tensors."""
STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")

MOST_COPIED = 2**28
"""Bytes that all tensors together may fill in any case; else ``EXPANSION`` times the size of the file."""
EXPANSION = 64
MOST_ITEMS = 5_000_000
"""Entries of all containers together; a pickle of a few lines can nest lists to more than any memory holds."""


@dataclass(frozen=True)
class TorchValue:
    """A plain value that only PyTorch has: a type, a device, a memory layout."""

    text: str

    def __str__(self) -> str:
        return self.text


class Storage:
    """The numbers that tensors are views of: ``count`` elements of the type ``code``, from element ``start`` of ``raw``.

    Some formats bring ``raw`` after the pickle that names the storage; ``root`` is the storage that has it where this one
    is a part of another.
    """

    def __init__(
        self,
        code: str,
        count: int,
        raw: bytes | None = None,
        order: str = "<",
        root: Storage | None = None,
        start: int = 0,
    ) -> None:
        self.code, self.count, self.raw, self.order, self.root, self.start = code, count, raw, order, root, start

    @property
    def bytes(self) -> int:
        """Its length in bytes."""
        return self.count * itemsize(self.code)

    def numbers(self, code: str | None = None) -> np.ndarray:
        """Return its elements, a flat array; ``code`` reads the bytes as another type."""
        owner, code, first = self.root or self, code or self.code, self.start * itemsize(self.code)
        raw = memoryview(owner.raw or b"")
        if len(raw) != owner.bytes or min(first, self.bytes) < 0 or first + self.bytes > len(raw):
            raise ValueError(f"a storage has {len(raw)} bytes instead of {owner.bytes}")
        raw = raw[first : first + self.bytes]
        return widen_bfloat16(raw, owner.order) if code == "bfloat16" else np.frombuffer(raw, owner.order + code)


class Tensor:
    """A tensor as the pickle describes it: a storage and how to look at it."""

    def __init__(self, *view: Any, code: str | None = None) -> None:
        self.view, self.code = view, code

    def array(self) -> np.ndarray:
        """Return a read-only view of the storage; one that reaches outside of it would read foreign memory."""
        if len(self.view) < 4 or not isinstance(self.view[0], Storage):
            raise ValueError("a tensor without a storage")
        storage, offset, size, stride = self.view[:4]
        numbers = storage.numbers(self.code)
        reach = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True)) + 1
        if min((offset, *size, *stride)) < 0 or (math.prod(size) and reach > numbers.size):
            raise ValueError("a tensor reaches outside its storage")
        strides = [step * numbers.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(numbers[offset:], size, strides, writeable=False)

    def build(self, state: Any) -> None:
        """Take the state of PyTorch before 0.4; attributes of later versions are no numbers."""
        if not self.view and isinstance(state, (tuple, list)) and len(state) == 4:
            self.view = tuple(state)


Reference = Callable[[Any], Any]
"""Gives what a pickle refers to outside of itself: a storage, or in the oldest format a tensor."""


class Unpickler(pickle._Unpickler):
    """Reads one pickle.

    Python's own implementation and not the one in C, which allocates as much memory as a damaged number in the file says.
    ``unsafe`` lets the pickle import and call whatever it names.
    """

    dispatch = {
        code: method
        for code, method in pickle._Unpickler.dispatch.items()
        # Names of other programs' registry, and memory of any size; PyTorch writes neither.
        if code not in (pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0], pickle.BYTEARRAY8[0])
    }

    def __init__(self, file: BinaryIO, refer: Reference, path: Path, unsafe: bool) -> None:
        # What Python 2 wrote as text may be bytes.
        super().__init__(file, encoding="utf-8", errors="surrogateescape")
        self.refer, self.path, self.unsafe = refer, path, unsafe

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of a global; raises :class:`UserError` for one that has none."""
        if module in STORAGE_MODULES and name in STORAGES:
            return STORAGES[name]
        if module in STORAGE_MODULES and name in TENSOR_TYPES:
            return Tensor
        if module == "torch" and name in (*DTYPES, "strided", "contiguous_format", "preserve_format", "channels_last"):
            return TorchValue(f"torch.{name}")
        if self.unsafe and module.partition(".")[0] in ("numpy", "_codecs"):
            return self._imported(module, name)
        if f"{module}.{name}" in STAND_INS:
            return STAND_INS[f"{module}.{name}"]
        if self.unsafe:
            return self._imported(module, name)
        raise UserError(
            f"{self.path}: loading it would run {module}.{name}, which is more than tensors and plain values; refused. "
            "Have it saved again as a plain state dict, or, if you trust it, convert it with converters.convert_ckpt --unsafe"
        )

    def _imported(self, module: str, name: str) -> Any:
        if module.startswith("numpy._core") and int(np.__version__.partition(".")[0]) < 2:
            module = module.replace("numpy._core", "numpy.core", 1)
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"{self.path}: it needs {module}.{name}, which cannot be imported here ({error}); run the command where "
                "the program that wrote the file can be imported"
            ) from None

    def persistent_load(self, reference: Any) -> Any:
        """See ``Reference``."""
        return self.refer(reference)

    def load_build(self) -> None:
        """Give a state to the object on the stack; only stand-ins take one, so that no other object is changed."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, (Tensor, _ScalarType)):
            target.build(state)
        elif self.unsafe:
            self.stack.append(state)
            super().load_build()
        elif not isinstance(target, OrderedDict):
            raise ValueError(f"a state for {type(target).__name__}")

    dispatch[pickle.BUILD[0]] = load_build

    def load_newobj(self) -> None:
        """Make an object of the class on the stack; a stand-in is called."""
        if self.unsafe and isinstance(self.stack[-2], type):
            super().load_newobj()
            return
        arguments = self.stack.pop()
        self.stack[-1] = self.stack[-1](*arguments)

    dispatch[pickle.NEWOBJ[0]] = load_newobj


def plain(value: Any, file_size: int) -> Any:
    """Return ordinary dicts, lists and values, every tensor as a writable contiguous array that shares no memory.

    Raises ValueError where a small file would become too much.
    """
    return _Copier(file_size)(value)


class _Copier:
    def __init__(self, file_size: int) -> None:
        self.bytes_left, self.items_left = max(EXPANSION * file_size, MOST_COPIED), MOST_ITEMS

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            value = value.array()
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            self.bytes_left -= value.nbytes
            if self.bytes_left < 0:
                raise ValueError("its tensors would fill far more memory than the file has bytes")
            return value.astype(value.dtype.newbyteorder("="), order="C")
        if isinstance(value, dict):
            self._count(value)
            return {self(key) if isinstance(key, str) else key: self(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            self._count(value)
            return [self(item) for item in value]
        if isinstance(value, str):
            return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if isinstance(value, (np.ndarray, np.generic)):
            return self(value.tolist())
        parameters = [getattr(value, part, None) for part in ("_parameters", "_buffers", "_modules")]
        if all(isinstance(part, dict) for part in parameters):
            return self._state_dict(*parameters)
        return value

    def _count(self, values: Any) -> None:
        self.items_left -= len(values)
        if self.items_left < 0:
            raise ValueError(f"more than {MOST_ITEMS} values")

    def _state_dict(self, parameters: dict, buffers: dict, modules: dict) -> dict[str, Any]:
        """The tensors of a network that was saved whole, which only ``unsafe`` reads, by their names."""
        tensors = {name: self(value) for name, value in {**parameters, **buffers}.items() if value is not None}
        for name, module in modules.items():
            inner = self(module)
            if isinstance(inner, dict):
                tensors |= {f"{name}.{key}": value for key, value in inner.items()}
        return tensors


def itemsize(code: str) -> int:
    """Return the bytes of one element."""
    return 2 if code == "bfloat16" else np.dtype(code).itemsize


def _rebuild_v3(
    storage: Storage, offset: int, size: tuple, stride: tuple, _grad: Any, _hooks: Any, dtype: Any, *_: Any
):
    return Tensor(storage, offset, size, stride, code=DTYPES[dtype.text.removeprefix("torch.")])


def _first(data: Any = None, *_: Any) -> Any:
    """A parameter is its tensor."""
    return data


def _rebuild_subclass(function: Callable, _kind: Any, arguments: tuple, _state: Any) -> Any:
    return function(*arguments)


def _torch_value(kind: str) -> Callable[..., TorchValue]:
    return lambda *parts: TorchValue(f"{kind}{':'.join(map(str, parts))}")


class _ScalarType:
    """Stands for ``numpy.dtype`` in the pickle of a NumPy scalar: number types only."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch(r"[fiub][1248]", code):
            raise ValueError(f"a NumPy scalar of type {code!r}")
        self.code, self.order = code, "<"

    def build(self, state: Sequence[Any]) -> None:
        """Take the byte order."""
        self.order = ">" if state[1] == ">" else "<"


def _scalar(kind: _ScalarType, raw: bytes | str) -> int | float | bool:
    raw = raw.encode("utf-8", "surrogateescape") if isinstance(raw, str) else raw
    return np.frombuffer(raw, kind.order + kind.code)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _bytes(content: bytes | str = b"", *_: Any) -> bytes:
    """A bytearray, which a number in place of its content would make as long as that says."""
    return content.encode("latin1") if isinstance(content, str) else memoryview(content).tobytes()


STAND_INS: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": Counter,
    "torch._utils._rebuild_tensor": Tensor,
    "torch._utils._rebuild_tensor_v2": lambda storage, offset, size, stride, *_: Tensor(storage, offset, size, stride),
    "torch._utils._rebuild_tensor_v3": _rebuild_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _rebuild_subclass,
    "torch.nn.parameter.Parameter": _first,
    "torch.autograd.variable.Variable": _first,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": _torch_value(""),
    "torch.serialization._get_layout": _torch_value(""),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.dtype": _ScalarType,
    "_codecs.encode": _encode,
    "builtins.set": set,
    "__builtin__.set": set,
    "builtins.frozenset": frozenset,
    "__builtin__.frozenset": frozenset,
    "builtins.bytearray": _bytes,
    "__builtin__.bytearray": _bytes,
    "builtins.complex": complex,
    "__builtin__.complex": complex,
}
"""The globals a pickle may name besides types, and what stands for them here."""
