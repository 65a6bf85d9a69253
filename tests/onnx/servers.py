"""Servers to ask: the command in a process of its own, and one in this process around a network that waits to be let on."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from common.paths import PROJECT
from common.reports.palettes import colours
from onnx_impl.serving.refusal import Limits
from tests.processes import PATIENCE


class Client:
    """Asks ``127.0.0.1:port``; ``name`` is the model's."""

    def __init__(self, port: int, name: str) -> None:
        self.port, self.name = port, name

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def ask(self, path: str, body: bytes | None = None, headers: dict | None = None) -> tuple[int, bytes]:
        """Return status and body of the answer; a body makes it a POST."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET" if body is None else "POST", path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def infer(self, pictures: np.ndarray) -> tuple[int, np.ndarray | bytes]:
        """Return status and class ids, or the answer's text, for pictures uint8 ``[B,H,W,3]``, as bytes both ways."""
        content, headers = question(pictures)
        status, answer = self.ask(f"/v2/models/{self.name}/infer", content, headers)
        if status != 200:
            return status, answer
        return status, np.frombuffer(answer[-pictures[..., 0].size :], np.uint8).reshape(pictures.shape[:3])

    def open(self, sent: bytes = b"") -> socket.socket:
        """Return a connection through which ``sent`` was sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.sendall(sent)
        return connection

    def metric(self, name: str) -> float:
        """Return one number of ``/metrics``."""
        lines = self.ask("/metrics")[1].decode().splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def pictures(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 ``[B,H,W,3]``: coloured squares of 8 pixels."""
    small = np.random.default_rng(seed).integers(0, 256, (batch, -(-height // 8), -(-width // 8), 3), np.uint8)
    return np.ascontiguousarray(small.repeat(8, 1).repeat(8, 2)[:, :height, :width])


def encoded(picture: np.ndarray, kind: str = "PNG", **options) -> bytes:
    """Return the picture as a file of this kind."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


def question(pictures: np.ndarray) -> tuple[bytes, dict]:
    """Return body and headers of a request with bytes both ways."""
    tensor = {"name": "picture", "datatype": "UINT8", "shape": list(pictures.shape)}
    tensor["parameters"] = {"binary_data_size": pictures.size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + pictures.tobytes(), {"inference-header-content-length": str(len(head))}


def wait_for(condition, what: str) -> None:
    """Return when ``condition()`` holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def command(model: Path, *options: str, port: int = 0) -> Iterator[tuple[subprocess.Popen, Client]]:
    """Yield the process of ``python -m onnx_impl.serve`` and a client of it; it is killed at the end if it still runs."""
    arguments = [sys.executable, "-m", "onnx_impl.serve", str(model), "--port", str(port), "--threads", "1", *options]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(arguments, env=environment, stdout=pipe, stderr=pipe, text=True)
    try:
        line = process.stdout.readline()
        assert "/v2/models/" in line, process.stderr.read()
        yield process, Client(int(line.split("http://127.0.0.1:")[1].split("/")[0]), line.split()[0])
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.communicate()


class Gate:
    """A network that answers with the red channel when it is let on."""

    def __init__(self) -> None:
        self.open, self.calls = threading.Event(), 0

    def picture_class_ids(self, pictures: np.ndarray) -> np.ndarray:
        """Count, wait, answer; a first pixel of 255 fails."""
        self.calls += 1
        assert self.open.wait(PATIENCE)
        if pictures.flat[0] == 255:
            raise RuntimeError("/home/somebody/model.onnx broke")
        return pictures[..., 0]


@contextlib.contextmanager
def gated(folder: Path, **limits) -> Iterator[tuple[Gate, Client]]:
    """Yield a gate, open at first, and a client of a server around it that runs in a thread of this process."""
    from onnx_impl.serving.app import Service
    from onnx_impl.serving.listening import listen, server_of

    gate, kept = Gate(), Limits(**limits)
    gate.open.set()
    (folder / "index.html").write_text("the page")
    app = Service(gate, "gate", colours("voc", 6), kept, (None, None), {"name": "gate"}, folder).app()
    server, listener = server_of(app, kept), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield gate, Client(listener.getsockname()[1], "gate")
    finally:
        gate.open.set()
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()
