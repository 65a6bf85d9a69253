"""The command serve as a process: signals, bad use, many clients at once, killed and started again."""

from __future__ import annotations

import http.client
import io
import shutil
import signal
import socket
import threading

import numpy as np
import pytest
from PIL import Image

from common.command_line import run_command
from common.experiment import dump
from onnx_impl.serve import main
from tests.onnx.servers import Client, command, encoded, pictures, question, wait_for

pytest.importorskip("onnxruntime")
pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


MANY = 200


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
