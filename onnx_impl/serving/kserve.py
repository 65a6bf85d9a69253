"""The KServe (Open Inference) protocol, version 2, over HTTP: bytes of a body to a picture, class ids to bytes of a body.

One tensor goes in, ``picture`` uint8 ``[B,H,W,3]``, and one comes out, ``class_ids`` uint8 ``[B,H,W]``, whatever the graph in
the file takes. Tensors travel as they are, by the binary extension; as JSON only small ones do, because numbers written in
decimal take several times the network's own time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_impl.serving.refusal import Refused

HEADER = "inference-header-content-length"
"""Names how many bytes of a body are JSON; the tensors follow."""
PICTURE, CLASS_IDS = "picture", "class_ids"
JSON_BYTES = 1 << 20
"""Most bytes of JSON in a body."""
JSON_NUMBERS = 1 << 16
"""Most elements of a tensor that is written as JSON."""
BINARY = f"send it as bytes (the binary extension: {HEADER}, binary_data_size)"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a body asks: pictures uint8 ``[B,H,W,3]``, the request's own name, and whether bytes are wanted back."""

    pictures: np.ndarray
    id: str | None
    binary: bool


def server_metadata(version: str) -> dict[str, Any]:
    """Return what ``/v2`` answers."""
    return {"name": "onnx_impl.serve", "version": version, "extensions": ["binary_tensor_data"]}


def model_metadata(name: str, batch: int | None, size: tuple[int, int] | None) -> dict[str, Any]:
    """Return what ``/v2/models/NAME`` answers; -1 is an axis of any length."""
    shape = [batch or -1, *(size or (-1, -1))]
    return {
        "name": name, "versions": ["1"], "platform": "onnxruntime_onnx",
        "inputs": [{"name": PICTURE, "datatype": "UINT8", "shape": [*shape, 3]}],
        "outputs": [{"name": CLASS_IDS, "datatype": "UINT8", "shape": shape}],
    }  # fmt: skip


def decode(body: bytes, header_length: str | None, most_pixels: int) -> Question:
    """Return what a body asks; ``header_length`` is the value of ``HEADER``. Raises :class:`Refused` for what it should not be."""
    if header_length is not None and not (header_length.isascii() and header_length.isdigit()):
        raise Refused(400, f"{HEADER} is no number of bytes")
    # A number of thousands of digits takes long to read.
    length = len(body) if header_length is None else int(header_length[:20])
    if length > len(body):
        raise Refused(400, f"{HEADER} says {length} bytes but the body has {len(body)}")
    if length > JSON_BYTES:
        raise Refused(413, f"{length} bytes of JSON are more than {JSON_BYTES}; {BINARY}")
    try:
        asked = json.loads(body[:length])
    except (ValueError, RecursionError):
        raise Refused(400, "the body does not begin with JSON; see the KServe protocol, version 2") from None
    tensor = _only(asked, "inputs", PICTURE)
    shape = tensor.get("shape")
    if not (isinstance(shape, list) and len(shape) == 4 and all(type(n) is int and n > 0 for n in shape)):
        raise Refused(400, f"the shape of {PICTURE} is not [batch, height, width, 3]")
    if tensor.get("datatype") != "UINT8" or shape[3] != 3:
        raise Refused(400, f"{PICTURE} is not UINT8 [batch, height, width, 3]")
    if math.prod(shape[:3]) > most_pixels:
        raise Refused(413, f"{PICTURE} has more than {most_pixels} pixels; make it smaller or send parts")
    return Question(
        pictures=_values(tensor, shape, memoryview(body)[length:]), id=_id(asked), binary=_binary_wanted(asked)
    )


def encode(name: str, ids: np.ndarray, question: Question) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of the answer: class ids, uint8 ``[B,H,W]``."""
    output: dict[str, Any] = {"name": CLASS_IDS, "datatype": "UINT8", "shape": list(ids.shape)}
    answer = {"model_name": name, "model_version": "1", "outputs": [output]}
    if question.id is not None:
        answer["id"] = question.id
    if not question.binary:
        if ids.size > JSON_NUMBERS:
            raise Refused(400, f'{ids.size} class ids as JSON take too long; ask with "binary_data": true')
        output["data"] = ids.ravel().tolist()
        return json.dumps(answer).encode(), {"content-type": "application/json"}
    output["parameters"] = {"binary_data_size": ids.size}
    head = json.dumps(answer).encode()
    return head + ids.tobytes(), {"content-type": "application/octet-stream", HEADER: str(len(head))}


def _only(asked: Any, what: str, name: str) -> Mapping[str, Any]:
    """The one tensor that may stand under ``what``."""
    tensors = asked.get(what) if isinstance(asked, dict) else None
    named = isinstance(tensors, list) and len(tensors) == 1 and isinstance(tensors[0], dict)
    if not named or tensors[0].get("name") != name:
        raise Refused(400, f"{what} must be one tensor called {name}")
    _parameters(tensors[0])
    return tensors[0]


def _parameters(part: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = part.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Refused(400, "parameters is not a JSON object")
    for name in ("shared_memory_region", "classification"):
        if name in parameters:
            raise Refused(400, f"{name} is not offered here; leave it out")
    return parameters


def _values(tensor: Mapping[str, Any], shape: list[int], tail: memoryview) -> np.ndarray:
    """The pictures, a view of the body where it holds them as bytes."""
    size, promised = math.prod(shape), _parameters(tensor).get("binary_data_size")
    if promised is not None:
        if type(promised) is not int or not promised == size == len(tail):
            raise Refused(
                400, f"{PICTURE} of shape {shape} has {size} bytes; binary_data_size says {str(promised)[:20]} and "
                f"{len(tail)} follow the JSON"
            )  # fmt: skip
        return np.frombuffer(tail, np.uint8).reshape(shape)
    if len(tail):
        raise Refused(400, f"{len(tail)} bytes follow the JSON but {PICTURE} has no binary_data_size")
    if size > JSON_NUMBERS:
        raise Refused(413, f"{PICTURE} has more than {JSON_NUMBERS} numbers; {BINARY}")
    try:
        data = np.array(tensor.get("data"))
    except (ValueError, OverflowError):
        data = np.array(None)
    if data.dtype.kind not in "iu" or data.size != size or data.min() < 0 or data.max() > 255:
        raise Refused(400, f"data of {PICTURE} is not {size} whole numbers in 0..255")
    return data.astype(np.uint8).reshape(shape)


def _id(asked: Mapping[str, Any]) -> str | None:
    name = asked.get("id")
    if name is not None and not (isinstance(name, str) and len(name) <= 256):
        raise Refused(400, "id is not a text of at most 256 characters")
    return name


def _binary_wanted(asked: Mapping[str, Any]) -> bool:
    wanted = _parameters(asked).get("binary_data_output", False)
    if asked.get("outputs"):
        wanted = _parameters(_only(asked, "outputs", CLASS_IDS)).get("binary_data", wanted)
    if not isinstance(wanted, bool):
        raise Refused(400, "binary_data is neither true nor false")
    return wanted
