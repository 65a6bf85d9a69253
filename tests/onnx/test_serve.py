"""The server: right answers to an independent client, bad requests refused, nobody who hangs keeps anything."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import shutil
import signal
import socket
import threading

import numpy as np
import pytest
from PIL import Image

from common.command_line import run_command
from common.experiment import dump
from common.reports.palettes import colours
from onnx_impl.serve import main
from tests.onnx.servers import Client, command, gated, question, wait_for

pytest.importorskip("onnxruntime")
pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

MANY = 200


def pictures(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 ``[B,H,W,3]``: coloured squares of 8 pixels."""
    small = np.random.default_rng(seed).integers(0, 256, (batch, -(-height // 8), -(-width // 8), 3), np.uint8)
    return np.ascontiguousarray(small.repeat(8, 1).repeat(8, 2)[:, :height, :width])


def encoded(picture: np.ndarray, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def predictor(exported):
    from onnx_impl.predictor import OnnxPredictor

    return OnnxPredictor(exported.model, threads=1)


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


def in_threads(calls) -> list:
    """Results of functions that run at the same time."""
    results = [None] * len(calls)

    def put(at, call):
        results[at] = call()

    threads = [threading.Thread(target=put, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_full_queue_is_said_at_once_and_empties(tmp_path):
    with gated(tmp_path, queue=2) as (gate, client):
        gate.open.clear()
        value, results = pictures(1, 8, 8), []
        threads = [threading.Thread(target=lambda: results.append(client.infer(value)[0])) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_for(lambda: client.metric("segmentation_requests_inside") == 3, "three requests inside")
        status, answer = client.infer(value)
        assert status == 503 and b"2 requests wait already" in answer
        gate.open.set()
        for thread in threads:
            thread.join()
        assert results == [200] * 3 and client.infer(value)[0] == 200
        assert client.metric("segmentation_requests_inside") == client.metric("segmentation_body_bytes") == 0


def test_who_leaves_gives_the_place_back(tmp_path):
    with gated(tmp_path, queue=1) as (gate, client):
        gate.open.clear()
        content, headers = question(pictures(1, 8, 8))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"POST /v2/models/gate/infer HTTP/1.1\r\nhost: a\r\n{head}content-length: {len(content)}\r\n\r\n"
        leaving = [client.open(request.encode() + content) for _ in range(2)]
        wait_for(lambda: client.metric("segmentation_requests_inside") == 2, "both to be inside")
        for connection in leaving:
            connection.close()
        wait_for(lambda: client.metric("segmentation_requests_inside") == 0, "both to have left")
        gate.open.set()
        assert client.infer(pictures(1, 8, 8))[0] == 200
        assert gate.calls == 2
        assert client.metric('segmentation_requests_total{route="infer",status="499"}') == 2


def test_an_answer_that_takes_too_long_is_given_up(tmp_path):
    with gated(tmp_path, seconds=0.5) as (gate, client):
        gate.open.clear()
        status, answer = client.infer(pictures(1, 8, 8))
        assert status == 503 and b"not there after 0.5 seconds" in answer
        gate.open.set()
        assert client.infer(pictures(1, 8, 8))[0] == 200


def test_a_body_that_does_not_arrive_is_given_up(tmp_path):
    with gated(tmp_path, seconds=0.5) as (_, client):
        request = b"POST /segment HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nabc"
        with client.open(request) as connection:
            assert b"408" in connection.recv(1 << 16).split(b"\r\n")[0]
        wait_for(lambda: client.metric("segmentation_body_bytes") == 0, "the body to be forgotten")


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"POST /segment HTTP/1.1\r\nhost: a\r\n"])
def test_a_connection_that_says_nothing_is_cut(tmp_path, sent):
    reset = contextlib.suppress(ConnectionResetError)
    with gated(tmp_path, seconds=0.3) as (_, client), client.open(sent) as connection, reset:
        assert connection.recv(1) == b""


def test_a_client_that_does_not_read_its_answer_is_cut(tmp_path):
    with gated(tmp_path, seconds=0.3, pixels=10**7, bytes=1 << 25) as (gate, client):
        content, headers = question(np.zeros((1, 3000, 3000, 3), np.uint8))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"POST /v2/models/gate/infer HTTP/1.1\r\nhost: a\r\n{head}content-length: {len(content)}\r\n\r\n"
        before = client.metric("process_open_fds")
        with client.open(request.encode() + content):
            wait_for(lambda: gate.calls == 1, "the network")
            # The file that is open more is this test's own end of the connection.
            wait_for(lambda: client.metric("process_open_fds") == before + 1, "the connection to be cut")


def test_many_bodies_at_once_fill_no_memory(tmp_path):
    with gated(tmp_path, bytes=1 << 16, queue=2) as (_, client):
        head = b"POST /segment HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n\r\n"
        slow = [client.open(head + b"a" * 59000) for _ in range(2)]
        wait_for(lambda: client.metric("segmentation_body_bytes") == 2 * 59000, "two bodies")
        status, answer = client.ask("/segment", b"a" * 60000)
        assert status == 503 and b"too many bodies" in answer
        for connection in slow:
            connection.close()
        wait_for(lambda: client.metric("segmentation_body_bytes") == 0, "their end")
        assert client.ask("/segment", b"a" * 60000)[0] == 400


def test_more_clients_than_allowed_are_told_so(tmp_path):
    with gated(tmp_path, connections=3) as (_, client):
        kept = [client.open() for _ in range(3)]
        wait_for(lambda: client.ask("/v2/health/live")[0] == 503, "the limit")
        for connection in kept:
            connection.close()
        wait_for(lambda: client.ask("/v2/health/live")[0] == 200, "room")


def test_a_failure_of_the_network_is_for_the_log(tmp_path, capfd):
    with gated(tmp_path) as (_, client):
        status, answer = client.infer(np.full((1, 4, 4, 3), 255, np.uint8))
        assert status == 500 and b"/home" not in answer
        assert client.infer(pictures(1, 8, 8))[0] == 200


def test_a_model_of_fixed_size_says_so(tmp_path):
    from onnx_impl.serving.app import Service
    from onnx_impl.serving.refusal import Limits, Refused

    service = Service(None, "a", colours("voc", 6), Limits(), (None, (5, 7)), {}, tmp_path)
    with pytest.raises(Refused, match="pictures of 5 rows and 7 columns only"):
        service._class_ids(pictures(1, 6, 7))


def test_sigterm_answers_what_was_taken(exported, predictor):
    value = pictures(1, 1200, 1200)
    with command(exported.model) as (process, client):
        results = []
        threads = [threading.Thread(target=lambda: results.append(client.infer(value))) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_for(lambda: client.metric("segmentation_requests_inside") == 2, "two requests inside")
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        out, err = process.communicate()
        assert process.returncode == 0 and out == "stopped\n" and err == ""
        expected = predictor.picture_class_ids(value)
        for status, ids in results:
            assert status == 200
            np.testing.assert_array_equal(ids, expected)
        with pytest.raises(OSError):
            client.ask("/v2/health/live")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_end_it_as_well(exported, number):
    with command(exported.model) as (process, client), client.open():
        process.send_signal(number)
        assert process.communicate() == ("stopped\n", "") and process.returncode == 0


def test_bad_use_is_one_line(exported, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        cases = [
            ([str(tmp_path / "none.onnx")], "there is no such file"),
            ([str(tmp_path)], "is a folder without"),
            ([str(exported.model), "--port", port], f"cannot listen on 127.0.0.1 port {port}"),
            ([str(exported.model), "--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
            ([str(exported.model), "--name", "a/b"], "'a/b' cannot stand in an address"),
        ]
        for arguments, complaint in cases:
            assert run_command(main, arguments) == 2
            text = capsys.readouterr().err
            assert complaint in text and text.count("\n") == 1


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_a_damaged_page_is_one_line(exported, tmp_path, capsys, content):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "page.json").write_text(content)
    (tmp_path / "config.yaml").write_text(dump(exported.experiment))
    shutil.copyfile(exported.model, tmp_path / "model.onnx")
    assert run_command(main, [str(tmp_path), "--port", "0"]) == 2
    assert "page.json is not what converters.package --web writes" in capsys.readouterr().err


def test_missing_packages_are_named(exported, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    monkeypatch.delitem(__import__("sys").modules, "onnx_impl.serving.listening", raising=False)
    assert run_command(main, [str(exported.model)]) == 2
    assert "pip install '.[serve]'" in capsys.readouterr().err


@pytest.mark.slow
def test_two_hundred_clients_at_once_get_no_wrong_answer_and_leave_nothing(exported, predictor):
    """Good, malformed, oversized and hanging requests mixed, round after round."""
    values = [pictures(1, 40 + seed, 60 - seed, seed) for seed in range(8)]
    expected = [predictor.picture_class_ids(value) for value in values]

    def good(client: Client, seed: int) -> str:
        status, ids = client.infer(values[seed % 8])
        assert status in (200, 503)
        assert status == 503 or np.array_equal(ids, expected[seed % 8])
        return "right" if status == 200 else "busy"

    def picture(client: Client, seed: int) -> str:
        status, answer = client.ask("/segment", encoded(values[seed % 8][0]))
        assert status in (200, 503)
        if status == 200:
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer))), expected[seed % 8][0])
        return "right" if status == 200 else "busy"

    def malformed(client: Client, seed: int) -> str:
        content, headers = question(values[seed % 8])
        assert client.ask(f"/v2/models/{client.name}/infer", content[:-1], headers)[0] in (400, 503)
        return "refused"

    def oversized(client: Client, seed: int) -> str:
        assert client.ask("/segment", b"a" * (3 << 19))[0] == 413
        return "refused"

    def leaves(client: Client, seed: int) -> str:
        content, _ = question(values[seed % 8])
        client.open(f"POST /segment HTTP/1.1\r\nhost: a\r\ncontent-length: {len(content)}\r\n\r\n".encode()).close()
        return "left"

    def hangs(client: Client, seed: int) -> str:
        with client.open(b"POST /segment HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc") as connection:
            connection.recv(1 << 16)
        return "hung"

    def guarded(kind, client, seed):
        try:
            return kind(client, seed)
        except Exception as error:
            return error

    kinds = [good, good, good, picture, good, malformed, good, oversized, leaves, hangs]
    with command(exported.model, "--max-bytes", "1", "--timeout", "5", "--queue", "64") as (process, client):
        files, memory = client.metric("process_open_fds"), []
        for _ in range(5):
            calls = [lambda k=kinds[at % 10], at=at: guarded(k, client, at // 10) for at in range(MANY)]
            ended = in_threads(calls)
            assert [item for item in ended if isinstance(item, Exception)] == []
            assert ended.count("right") > 0
            for name in ("segmentation_requests_inside", "segmentation_body_bytes"):
                wait_for(lambda name=name: client.metric(name) == 0, name)
            wait_for(lambda: client.metric("process_open_fds") <= files, "connections to close")
            memory.append(client.metric("process_resident_memory_bytes"))
        assert memory[-1] < 1.2 * memory[1], memory
        status = f"/proc/{process.pid}/status"
        with open(status) as file:
            threads = next(int(line.split()[1]) for line in file if line.startswith("Threads"))
        assert threads < MANY / 4
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again(exported, predictor):
    value = pictures(1, 700, 700)
    expected = predictor.picture_class_ids(value)
    before = sorted(exported.model.parent.iterdir())
    with command(exported.model) as (process, client):
        ended = []

        def ask():
            try:
                ended.append(client.infer(value))
            except (OSError, http.client.HTTPException):
                ended.append(None)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_for(lambda: client.metric("segmentation_network_seconds_count") >= 1, "a first answer")
        process.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join()
        assert None in ended
        for item in filter(None, ended):
            assert item[0] == 200
            np.testing.assert_array_equal(item[1], expected)
        process.wait()
        with command(exported.model, port=client.port) as (_, again):
            status, ids = again.infer(value)
            assert again.port == client.port and status == 200
            np.testing.assert_array_equal(ids, expected)
    assert sorted(exported.model.parent.iterdir()) == before
