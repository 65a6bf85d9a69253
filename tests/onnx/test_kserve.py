"""The protocol: what a body asks is understood exactly or refused in one line, whatever it holds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from onnx_impl.serving.kserve import HEADER, decode, encode, model_metadata
from onnx_impl.serving.refusal import Refused

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
MOST = 1000


def body(changes: dict | None = None, tensor: dict | None = None, tail: bytes | None = None) -> tuple[bytes, str]:
    """A good request with ``changes`` of it and of its tensor, and the length of its JSON."""
    data = PICTURES.tobytes() if tail is None else tail
    described = {"name": "picture", "datatype": "UINT8", "shape": list(PICTURES.shape)}
    described |= {"parameters": {"binary_data_size": PICTURES.size}} | (tensor or {})
    head = json.dumps({"inputs": [described]} | (changes or {})).encode()
    return head + data, str(len(head))


def test_bytes_go_in_and_out():
    question = decode(*body({"id": "a", "outputs": [{"name": "class_ids", "parameters": {"binary_data": True}}]}), MOST)
    np.testing.assert_array_equal(question.pictures, PICTURES)
    ids = PICTURES[..., 0]
    content, headers = encode("net", ids, question)
    length = int(headers[HEADER])
    head = json.loads(content[:length])
    assert head["model_name"] == "net" and head["id"] == "a"
    assert head["outputs"][0]["shape"] == [2, 5, 7] and head["outputs"][0]["parameters"] == {"binary_data_size": 70}
    assert content[length:] == ids.tobytes()


@pytest.mark.parametrize("nested", [False, True])
def test_numbers_go_in_and_out(nested):
    data = PICTURES.tolist() if nested else PICTURES.ravel().tolist()
    question = decode(body(tensor={"parameters": {}, "data": data}, tail=b"")[0], None, MOST)
    np.testing.assert_array_equal(question.pictures, PICTURES)
    assert not question.binary
    answer = json.loads(encode("net", PICTURES[..., 0], question)[0])
    assert answer["outputs"][0]["data"] == PICTURES[..., 0].ravel().tolist() and "id" not in answer


def test_all_outputs_can_be_wanted_as_bytes():
    assert decode(*body({"parameters": {"binary_data_output": True}}), MOST).binary
    both = {"parameters": {"binary_data_output": True}, "outputs": [{"name": "class_ids"}]}
    assert decode(*body(both), MOST).binary
    both["outputs"][0]["parameters"] = {"binary_data": False}
    assert not decode(*body(both), MOST).binary


@pytest.mark.parametrize(
    ("message", "status", "complaint"),
    [
        (body({"inputs": []}), 400, "inputs must be one tensor called picture"),
        (body({"inputs": 3}), 400, "inputs must be one tensor"),
        (body(tensor={"name": "image"}), 400, "called picture"),
        (body(tensor={"datatype": "FP32"}), 400, "not UINT8"),
        (body(tensor={"shape": [2, 5, 7, 4]}), 400, "not UINT8"),
        (body(tensor={"shape": [70, 3]}), 400, "is not [batch, height, width, 3]"),
        (body(tensor={"shape": [-2, -5, 7, 3]}), 400, "is not [batch"),
        (body(tensor={"shape": [True, 10, 7, 3]}), 400, "is not [batch"),
        (body(tensor={"shape": [2, 5.0, 7, 3]}), 400, "is not [batch"),
        (body(tensor={"shape": [10**9, 10**9, 10**9, 3]}), 413, "more than 1000 pixels"),
        (body(tensor={"shape": [2, 5, 6, 3]}), 400, "has 180 bytes; binary_data_size says 210"),
        (body(tail=b"x"), 400, "1 follow the JSON"),
        (body(tensor={"parameters": {"binary_data_size": 1e3}}), 400, "binary_data_size says 1000.0"),
        (body(tensor={"parameters": 1}), 400, "parameters is not a JSON object"),
        (body(tensor={"parameters": {"shared_memory_region": "r"}}), 400, "shared_memory_region is not offered"),
        (body(tensor={"parameters": {}}), 400, "210 bytes follow the JSON"),
        (body(tensor={"parameters": {}, "data": [1, 2]}, tail=b""), 400, "not 210 whole numbers"),
        (body(tensor={"parameters": {}, "data": [256] * 210}, tail=b""), 400, "in 0..255"),
        (body(tensor={"parameters": {}, "data": [10**30] * 210}, tail=b""), 400, "in 0..255"),
        (body(tensor={"parameters": {}, "data": [0.5] * 210}, tail=b""), 400, "whole numbers"),
        (body(tensor={"parameters": {}, "data": [[1], [2, 3]]}, tail=b""), 400, "whole numbers"),
        (body(tensor={"parameters": {}}, tail=b""), 400, "whole numbers"),
        (body({"outputs": [{"name": "logits"}]}), 400, "outputs must be one tensor called class_ids"),
        (body({"outputs": [{"name": "class_ids", "parameters": {"classification": 3}}]}), 400, "classification"),
        (body({"id": 3}), 400, "id is not a text"),
        ((body()[0], "-1"), 400, "no number of bytes"),
        ((body()[0], "9" * 5000), 400, "but the body has"),
        ((b"[" * 100_000, None), 400, "does not begin with JSON"),
        ((b"\xff\x00", None), 400, "does not begin with JSON"),
        ((b"[1]", None), 400, "inputs must be"),
        ((b'{"inputs": ' + b"9" * 5000 + b"}", None), 400, "does not begin with JSON"),
        ((b" " * (2 << 20), None), 413, "bytes of JSON are more"),
    ],
)  # fmt: skip
def test_what_is_refused(message, status, complaint):
    with pytest.raises(Refused, match=r".*") as refused:
        decode(*message, MOST)
    assert refused.value.status == status and complaint in str(refused.value)
    assert len(str(refused.value)) < 200 and "\n" not in str(refused.value)


def test_many_numbers_as_text_are_refused():
    large = np.zeros((1, 300, 300, 3), np.uint8)
    text = {"parameters": {}, "data": [], "shape": list(large.shape)}
    with pytest.raises(Refused, match="send it as bytes"):
        decode(body(tensor=text, tail=b"")[0], None, 10**6)
    question = decode(*body(), MOST)
    with pytest.raises(Refused, match='ask with "binary_data": true'):
        encode("net", large[..., 0], question)


def test_damaged_bodies_are_understood_or_refused():
    rng, (good, length), refused = np.random.default_rng(0), body(), 0
    for _ in range(2000):
        damaged = bytearray(good)
        for at in rng.integers(0, int(length), rng.integers(1, 4)):
            damaged[at] = rng.integers(0, 256)
        if rng.random() < 0.5:
            damaged = damaged[: rng.integers(1, len(damaged) + 1)]
        try:
            assert decode(bytes(damaged), length, MOST).pictures.shape[3] == 3
        except Refused:
            refused += 1
    assert 0 < refused < 2000


def test_the_metadata_tells_free_and_fixed_axes():
    assert model_metadata("a", None, None)["inputs"][0]["shape"] == [-1, -1, -1, 3]
    assert model_metadata("a", 2, (5, 7))["outputs"][0]["shape"] == [2, 5, 7]
