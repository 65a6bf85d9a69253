"""From an application to a server: the socket, uvicorn with its limits, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from common.command_line import ending_signals
from common.errors import UserError
from onnx_impl.serving.refusal import HEAD, Limits


def server_of(app: Any, limits: Limits) -> uvicorn.Server:
    """Return the uvicorn server of an application; its ``run(sockets=[...])`` answers until a signal, or ``should_exit``."""
    config = uvicorn.Config(
        app, http=watched(3 * limits.seconds), ws="none", lifespan="off", access_log=False, log_level="error",
        server_header=False, proxy_headers=False, limit_concurrency=limits.connections,
        h11_max_incomplete_event_size=HEAD, timeout_graceful_shutdown=int(2 * limits.seconds) + 1,
    )  # fmt: skip
    return uvicorn.Server(config)


@contextlib.contextmanager
def ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Let every signal that asks for an end, and Ctrl-C, end ``server`` as uvicorn means it, and nothing else."""
    # Uvicorn takes two of them itself while it runs, and raises those it got once more when it is done.
    before = {number: signal.signal(number, server.handle_exit) for number in (*ending_signals(), signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raises :class:`UserError` where that cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port") from None


def watched(period: float) -> type[H11Protocol]:
    """Return uvicorn's protocol with connections that are cut when no answer was finished for a whole ``period`` of seconds.

    Uvicorn itself waits for ever for the first line of a request, and for a client that does not read its answer. Every
    request has deadlines of its own, so what is older than all of them together hangs.
    """

    class Watched(H11Protocol):
        """A connection that looks every period whether an answer was finished since the last look."""

        finished = seen = 0
        watch: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.watch = self.loop.call_later(period, self.look)

        def connection_lost(self, exc: Exception | None) -> None:
            if self.watch is not None:
                self.watch.cancel()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            self.finished += 1
            super().on_response_complete()

        def look(self) -> None:
            """Cut the connection, or look again later."""
            if self.finished == self.seen:
                self.transport.abort()
                return
            self.seen = self.finished
            self.watch = self.loop.call_later(period, self.look)

    return Watched
