"""The server's answers: KServe version 2, ``/segment``, ``/metrics`` and the page, as one ASGI application.

Bodies are read side by side into a bounded amount of memory, pictures are decoded and labels encoded beside the network, and
the network takes one request after the other. Nothing a client sends names a file, and no answer names one either.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import itertools
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import anyio
import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from common.command_line import as_user_error
from common.errors import UserError
from common.images.picture import PictureBytes, PixelLimit, TooManyPixels, read_rgb
from common.reports.palettes import label_png
from onnx_impl.serving import kserve
from onnx_impl.serving.metrics import CONTENT_TYPE, Metrics
from onnx_impl.serving.refusal import HEAD, Limits, Refused
from onnx_impl.serving.threads import Threads

LEFT = 499
"""Status, in the metrics alone, of a request whose client went away."""

DISCARDED, DISCARDING = 4, 5.0
"""Times the largest body, and seconds, that are spent on reading what was refused already."""

PNG_LEVEL = 2
"""zlib's effort on labels: a quarter of the time of its default, files half as large again at most."""

HEADERS = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob:; "
    "worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
"""Of every answer: the page fetches nothing from elsewhere, its WebAssembly may use threads, no model is shown from a cache."""


class Predictor(Protocol):
    """What the server needs of :class:`onnx_impl.predictor.OnnxPredictor`."""

    def picture_class_ids(self, pictures: np.ndarray) -> np.ndarray:
        """Return uint8 ``[B,H,W]`` for uint8 ``[B,H,W,3]``."""
        ...


class Service:
    """What answers requests. ``name`` is the model's in addresses, ``palette`` uint8 ``[256,3]``.

    ``fixed`` is the graph's batch and size, None where free; ``page`` describes the page's model (``page.json``), whose files
    lie in ``folder``.
    """

    def __init__(
        self, predictor: Predictor, name: str, palette: np.ndarray, limits: Limits,
        fixed: tuple[int | None, tuple[int, int] | None], page: Mapping[str, Any], folder: Path,
    ) -> None:  # fmt: skip
        self.predictor, self.name, self.palette, self.limits = predictor, name, palette, limits
        self.batch, self.size = fixed
        self.page = page
        self.network, self.hands = Threads(1, "network"), Threads(2, "pictures")
        self.inside = self.held = 0
        self.metrics = Metrics(waiting=lambda: self.inside, held=lambda: self.held)
        model = "/v2/models/{name}"
        self.routes = [
            Route("/v2", self.server),
            Route("/v2/health/live", self.healthy),
            Route("/v2/health/ready", self.healthy),
            *self._of_model(model),
            *self._of_model(model + "/versions/1"),
            Route("/segment", self.segment, methods=["POST"]),
            Route("/metrics", self.scrape),
            Route("/page.json", self.described),
            Mount("/", StaticFiles(directory=folder, html=True)),
        ]

    def app(self) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        """Return the ASGI application."""
        handlers = {Refused: _refused, HTTPException: _http_error, ClientDisconnect: _left}
        return Observed(Starlette(routes=self.routes, exception_handlers=handlers), self.metrics, self.limits)

    def _of_model(self, path: str) -> list[Route]:
        return [
            Route(path, self.model),
            Route(path + "/ready", self.model_ready),
            Route(path + "/infer", self.infer, methods=["POST"]),
        ]

    async def server(self, _: Request) -> Response:
        """``/v2``."""
        return JSONResponse(kserve.server_metadata(importlib.metadata.version("onnxruntime")))

    async def healthy(self, _: Request) -> Response:
        """Up from the moment that the network is loaded; a server that ends takes no connections any more."""
        return JSONResponse({"live": True, "ready": True})

    async def model(self, request: Request) -> Response:
        """``/v2/models/NAME``."""
        self._known(request)
        return JSONResponse(kserve.model_metadata(self.name, self.batch, self.size))

    async def model_ready(self, request: Request) -> Response:
        """``/v2/models/NAME/ready``."""
        self._known(request)
        return JSONResponse({"name": self.name, "ready": True})

    async def infer(self, request: Request) -> Response:
        """``/v2/models/NAME/infer``: tensors in and out."""
        self._known(request)
        return await self.answer(request, functools.partial(self._infer, request.headers.get(kserve.HEADER)))

    async def segment(self, request: Request) -> Response:
        """``/segment``: a picture file in, a palette PNG of class ids out."""
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise Refused(415, "send the picture alone as the body (curl --data-binary @FILE), not as a form")
        return await self.answer(request, self._segment)

    async def scrape(self, _: Request) -> Response:
        """``/metrics``."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def described(self, _: Request) -> Response:
        """What the page shows: classes, colours, models, and where this server's network is."""
        return JSONResponse(dict(self.page))

    async def answer(self, request: Request, work: Callable[[bytes], Awaitable[Response]]) -> Response:
        """Read the body and return what ``work`` makes of it, unless it is late, too large or not wanted any more."""
        encoding = request.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise Refused(415, f"a body in the encoding {encoding[:20]} is not taken; send it as it is")
        body = await self._body(request)
        try:
            if self.inside > self.limits.queue:
                raise Refused(503, f"{self.limits.queue} requests wait already; try again")
            self.inside += 1
            try:
                return await self._in_time(request, work(body))
            finally:
                self.inside -= 1
        finally:
            self.held -= len(body)

    async def _body(self, request: Request) -> bytes:
        """The body; ``held`` has grown by its length."""
        most, length, parts = self.limits.bytes, 0, []
        declared = int(request.headers.get("content-length", 0))
        if declared > most:
            raise Refused(413, f"a body of {declared} bytes is more than {most}")
        try:
            with anyio.fail_after(self.limits.seconds):
                async for part in request.stream():
                    length += len(part)
                    self.held += len(part)
                    if length > most:
                        raise Refused(413, f"the body has more than {most} bytes")
                    if self.held > most * self.limits.queue:
                        raise Refused(503, "too many bodies arrive at once; try again")
                    parts.append(part)
            if not length:
                raise Refused(400, "the body is empty")
        except BaseException as error:
            self.held -= length
            if isinstance(error, TimeoutError):
                raise Refused(408, f"the body was not there after {self.limits.seconds:g} seconds") from None
            raise
        return b"".join(parts)

    async def _in_time(self, request: Request, work: Awaitable[Response]) -> Response:
        """What ``work`` gives; it ends with the client's patience, or the server's."""
        working, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait({working, gone}, timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            if gone.done():
                raise ClientDisconnect
            raise Refused(503, f"the answer was not there after {self.limits.seconds:g} seconds; try again")
        finally:
            for task in (working, gone):
                task.cancel()

    async def _infer(self, header_length: str | None, body: bytes) -> Response:
        question = await self.hands.run(kserve.decode, body, header_length, self.limits.pixels)
        ids = await self.network.run(self._class_ids, question.pictures)
        content, headers = await self.hands.run(kserve.encode, self.name, ids, question)
        return Response(content, headers=headers)

    async def _segment(self, body: bytes) -> Response:
        picture = await self.hands.run(self._read, body)
        ids = await self.network.run(self._class_ids, picture[None])
        return Response(await self.hands.run(label_png, ids[0], self.palette, PNG_LEVEL), media_type="image/png")

    def _read(self, body: bytes) -> np.ndarray:
        try:
            return read_rgb(PictureBytes(body, "that was sent"), limit=PixelLimit(self.limits.pixels, "the limit"))
        except TooManyPixels as error:
            raise Refused(413, str(error)) from None
        except UserError as error:
            raise Refused(400, str(error)) from None

    def _class_ids(self, pictures: np.ndarray) -> np.ndarray:
        if self.size is not None and pictures.shape[1:3] != tuple(self.size):
            raise Refused(400, f"this model takes pictures of {self.size[0]} rows and {self.size[1]} columns only")
        started = time.perf_counter()
        try:
            return self.predictor.picture_class_ids(pictures)
        except Exception as error:
            # The reason names the model's file, which is for the log alone.
            print(f"error: {as_user_error(error)}", file=sys.stderr, flush=True)
            raise Refused(500, f"the network failed on {list(pictures.shape)}; the server's log says why") from None
        finally:
            self.metrics.network.observe(time.perf_counter() - started)

    def _known(self, request: Request) -> None:
        if request.path_params["name"] != self.name:
            raise Refused(404, f"there is no such model; there is {self.name}")


class Observed:
    """The application with ``HEADERS`` on every answer, every request counted, and bodies that nobody wants thrown away."""

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], metrics: Metrics, limits: Limits
    ) -> None:
        self.app, self.metrics, self.limits = app, metrics, limits
        self.headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started, status, whole = time.perf_counter(), 500, False

        async def receiving() -> Message:
            nonlocal whole
            message = await receive()
            whole = whole or not message.get("more_body", False)
            return message

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *self.headers]
                # Many clients look for an answer only when their whole body is sent, and see none when the connection breaks.
                if not whole and status != 408 and not any(name == b"expect" for name, _ in scope["headers"]):
                    await self._discard(receiving, lambda: whole)
            await send(message)

        try:
            await (TOO_LONG if _head(scope) > HEAD else self.app)(scope, receiving, sending)
        finally:
            self.metrics.count(scope, status, time.perf_counter() - started)

    async def _discard(self, receive: Receive, whole: Callable[[], bool]) -> None:
        left = DISCARDED * self.limits.bytes
        with anyio.move_on_after(min(self.limits.seconds, DISCARDING)):
            while left > 0 and not whole():
                left -= len((await receive()).get("body", b""))


def _error(status: int, message: str) -> Response:
    headers = {"retry-after": "1"} if status == 503 else None
    return JSONResponse({"error": message}, status, headers)


TOO_LONG = _error(431, f"address and headers are longer than {HEAD} bytes")
"""To a head that came in one piece: the protocol counts only those that it has to wait for."""


def _head(scope: Scope) -> int:
    """Return the bytes of a request's address and headers."""
    return len(scope["raw_path"]) + len(scope["query_string"]) + sum(map(len, itertools.chain(*scope["headers"])))


async def _refused(_: Request, error: Refused) -> Response:
    return _error(error.status, str(error))


async def _http_error(_: Request, error: HTTPException) -> Response:
    return _error(error.status_code, error.detail)


async def _left(_: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=LEFT)
