"""The server: right answers to an independent client, bad requests refused."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import socket
import time

import numpy as np
import pytest
from PIL import Image

from common.reports.palettes import colours
from tests.onnx.servers import command, encoded, pictures

pytest.importorskip("onnxruntime")
pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


@pytest.fixture(scope="module")
def served(exported):
    """A client of the command with its defaults but for small limits."""
    with command(exported.model, "--max-pixels", "20000", "--max-bytes", "1") as (_, client):
        yield client


@pytest.fixture
def triton(served):
    """An independent client."""
    http = pytest.importorskip("tritonclient.http")
    with http.InferenceServerClient(served.address) as client:
        yield client


def tensors(values: np.ndarray, binary: bool):
    import tritonclient.http as http

    picture = http.InferInput("picture", values.shape, "UINT8")
    picture.set_data_from_numpy(values, binary_data=binary)
    return [picture], [http.InferRequestedOutput("class_ids", binary_data=binary)]


def test_an_independent_client_finds_the_model(served, triton):
    assert triton.is_server_live() and triton.is_server_ready() and triton.is_model_ready(served.name)
    assert triton.is_model_ready(served.name, "1") and not triton.is_model_ready("another")
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert triton.get_model_metadata(served.name)["inputs"] == [
        {"name": "picture", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}
    ]


@pytest.mark.parametrize("binary", [True, False])
def test_an_independent_client_gets_the_predictors_answer(served, triton, predictor, binary):
    for seed, (batch, height, width) in enumerate([(1, 60, 80), (3, 33, 47), (1, 1, 1), (2, 16, 90)]):
        values = pictures(batch, height, width, seed)
        inputs, wanted = tensors(values, binary)
        class_ids = triton.infer(served.name, inputs, outputs=wanted).as_numpy("class_ids")
        np.testing.assert_array_equal(class_ids.astype(np.uint8), predictor.picture_class_ids(values))
    assert len(np.unique(class_ids)) > 1
    without = triton.infer(served.name, inputs, request_id="seven")
    assert without.get_response()["id"] == "seven"
    np.testing.assert_array_equal(without.as_numpy("class_ids"), class_ids)


def test_an_independent_client_is_told_what_is_wrong(served, triton):
    from tritonclient.utils import InferenceServerException

    values = pictures(1, 200, 101)
    with pytest.raises(InferenceServerException, match="more than 20000 pixels"):
        triton.infer(served.name, tensors(values, True)[0])
    with pytest.raises(InferenceServerException, match="there is no such model; there is logits"):
        triton.infer("another", tensors(values, True)[0])
    with pytest.raises(InferenceServerException, match="encoding gzip is not taken"):
        triton.infer(served.name, tensors(values, True)[0], request_compression_algorithm="gzip")


def test_a_picture_goes_in_and_a_palette_png_comes_out(served, predictor):
    picture = pictures(1, 60, 80)[0]
    tag = Image.Exif()
    tag[0x0112] = 6
    turned = encoded(picture, exif=tag)
    sixteen = encoded((picture[..., 0].astype(np.uint16) << 8) + 77)
    grey = picture[..., :1].repeat(3, 2)
    lossy = encoded(picture, "JPEG")
    decoded = np.asarray(Image.open(io.BytesIO(lossy)))
    for file, upright in (
        (encoded(picture), picture),
        (turned, np.rot90(picture, -1)),
        (sixteen, grey),
        (lossy, decoded),
    ):
        status, answer = served.ask("/segment", file)
        assert status == 200
        with Image.open(io.BytesIO(answer)) as image:
            assert image.format == "PNG" and image.mode == "P"
            assert image.getpalette()[:768] == colours("voc", 6).ravel().tolist()
            np.testing.assert_array_equal(np.asarray(image), predictor.picture_class_ids(upright[None])[0])


def test_damaged_pictures_are_read_or_refused(tmp_path):
    from onnx_impl.serving.app import Service
    from onnx_impl.serving.refusal import Limits, Refused

    service = Service(None, "a", colours("voc", 6), Limits(pixels=10_000), (None, None), {}, tmp_path)
    rng, ended = np.random.default_rng(0), {"read": 0, "refused": 0}
    files = [encoded(pictures(1, 30, 40)[0], kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM")]
    for turn in range(300):
        damaged = bytearray(files[turn % len(files)])
        for at in rng.integers(0, len(damaged), rng.integers(1, 5)):
            damaged[at] = rng.integers(0, 256)
        try:
            picture = service._read(bytes(damaged))
            assert picture.dtype == np.uint8 and picture.size <= 30_000 and picture.shape[2] == 3
            ended["read"] += 1
        except Refused as refused:
            assert refused.status in (400, 413) and "\n" not in str(refused)
            ended["refused"] += 1
    assert min(ended.values()) > 0


REFUSED = [
    ("/segment", b"no picture", {}, 400, "is none of JPEG, PNG"),
    ("/segment", encoded(pictures(1, 60, 80)[0])[:150], {}, 400, "cannot be decoded"),
    ("/segment", encoded(np.zeros((200, 101, 3), np.uint8)), {}, 413, "more than the limit = 20000"),
    ("/segment", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {}, 400, "is none of"),
    ("/segment", encoded(np.zeros((8, 8), np.float32), "TIFF"), {}, 400, "do not say what is white"),
    ("/segment", b"", {}, 400, "the body is empty"),
    ("/segment", b"a", {"content-type": "multipart/form-data; boundary=x"}, 415, "not as a form"),
    ("/segment", b"a", {"content-encoding": "gzip"}, 415, "encoding gzip is not taken"),
    ("/segment", b"a" * (3 << 19), {}, 413, "a body of 1572864 bytes is more than 1048576"),
    ("/segment", b"a" * (3 << 19), {"connection": "close"}, 413, "is more than 1048576"),
    ("/segment", None, {}, 404, "Not Found"),
    ("/v2/models/logits/infer", None, {}, 404, "Not Found"),
    ("/v2/models/logits/versions/2/infer", b"a", {}, 405, "Method Not Allowed"),
    ("/v2/models/logits/infer", b"a", {}, 400, "does not begin with JSON"),
    ("/v2/models/logits/infer", b"a", {"inference-header-content-length": "x"}, 400, "no number of bytes"),
    ("/nothing", None, {}, 404, "Not Found"),
]


@pytest.mark.parametrize(("path", "body", "headers", "status", "complaint"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(served, path, body, headers, status, complaint):
    code, answer = served.ask(path, body, headers)
    text = json.loads(answer)["error"]
    assert code == status and complaint in text and "\n" not in text


def test_a_body_without_a_length_is_cut_off_where_it_is_too_long(served):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    parts = (b"a" * (1 << 18) for _ in range(6))
    connection.request("POST", "/segment", parts, {"transfer-encoding": "chunked"}, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 413 and b"more than 1048576 bytes" in answer.read()
    connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd", "/..%2f..%2f..%2f..%2fetc%2fpasswd", "//etc/passwd", "/%2e%2e/%2e%2e/page.py",
        "/../page.py", "/page.py", "/..\\..\\page.py", "/static/../../page.py", "/%00", "/v2/models/..%2f..%2fetc",
        "/v2/models/logits/../../../etc/passwd", "/file:///etc/passwd", "/model.onnx", "/logits.onnx",
    ],
)  # fmt: skip
def test_no_file_of_the_host_is_reachable(served, exported, path):
    with served.open(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode()) as connection:
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.split()[1] in (b"404", b"400")
    for part in (b"root:", b"describe_page", str(exported.model.parent).encode(), b"site-packages"):
        assert part not in answer


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /segment HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\nabc",
        b"POST /segment HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"POST /segment HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 20000 + b"\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_http_is_answered_and_hung_up(served, sent):
    with served.open(sent) as connection:
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431")) or answer == b""
    assert served.ask("/v2/health/live")[0] == 200


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("head", ["GET /{} HTTP/1.1\r\n", "GET /?{} HTTP/1.1\r\n", "GET / HTTP/1.1\r\nx: {}\r\n"])
def test_a_head_has_a_limit_however_it_arrives(served, head, pieces):
    def answer(length: int) -> bytes:
        sent = (head.format("a" * length) + "host: a\r\nconnection: close\r\n\r\n").encode()
        with served.open() as connection, contextlib.suppress(ConnectionError):
            for part in (sent,) if pieces == 1 else (sent[:-20], sent[-20:]):
                connection.sendall(part)
                time.sleep(0.1)
            return b"".join(iter(lambda: connection.recv(1 << 16), b""))
        return b""

    assert answer(10_000).split()[1] in (b"200", b"404")
    refused = answer(20_000)
    assert refused == b"" or refused.split()[1] in (b"400", b"431")


def test_a_long_head_in_one_piece_is_too_long(tmp_path):
    from onnx_impl.serving.app import Service
    from onnx_impl.serving.refusal import HEAD, Limits

    app = Service(None, "a", colours("voc", 6), Limits(), (None, None), {}, tmp_path).app()

    def status(length: int) -> int:
        sent = []

        async def receive() -> dict:
            return {"type": "http.request"}

        async def send(message: dict) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/v2",
            "raw_path": b"/v2",
            "query_string": b"",
            "root_path": "",
        }
        asyncio.run(app(scope | {"headers": [(b"x", b"a" * length)]}, receive, send))
        return sent[0]["status"]

    assert status(HEAD - 4) == 200
    assert status(HEAD - 3) == 431


def test_metrics_tell_what_happened(served, predictor):
    from prometheus_client.parser import text_string_to_metric_families

    before = served.metric('segmentation_requests_total{route="infer",status="200"}')
    assert served.infer(pictures(1, 9, 9))[0] == 200
    served.ask("/no/such/page")
    assert served.metric('segmentation_requests_total{route="infer",status="200"}') == before + 1
    assert served.metric('segmentation_request_seconds_count{route="infer"}') > 0
    assert served.metric("segmentation_network_seconds_sum") > 0
    assert served.metric("process_open_fds") > 0
    text = served.ask("/metrics")[1].decode()
    assert "no/such" not in text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["segmentation_request_seconds"].type == "histogram" and "process_cpu_seconds" in families


def test_the_page_may_use_threads_and_fetches_nothing_from_elsewhere(served):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.status == 200 and b"<html" in answer.read()
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    connection.close()
    page = json.loads(served.ask("/page.json")[1])
    assert page["classes"][:2] == ["background", "disc"] and page["server"]["url"] == "v2/models/logits/infer"
    assert page["models"] == [] and page["runtime"] is None


def test_it_listens_to_this_machine_alone(served):
    other = socket.gethostbyname(socket.gethostname())
    if other.startswith("127."):
        pytest.skip("this machine has no other address")
    with pytest.raises(OSError):
        socket.create_connection((other, served.port), timeout=5)
