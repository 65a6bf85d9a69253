"""A server with limits: what is too much, too slow or hangs is ended and keeps nothing."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest

from common.reports.palettes import colours
from tests.onnx.servers import gated, pictures, question, wait_for

pytest.importorskip("onnxruntime")
pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


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
