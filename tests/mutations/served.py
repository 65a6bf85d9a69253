"""What ``onnx_impl.serve`` reads of a folder before it listens, and its first answers, without a port."""

from __future__ import annotations

import asyncio
from typing import Any

from onnx_impl import serve


def main(arguments: list[str] | None = None) -> None:
    """Open a model as the command does and ask for what a page asks first; raises RuntimeError for another status than 200."""
    name, _, app = serve.open_model(serve.parser().parse_args(arguments))
    for path in ("/", "/page.json", f"/v2/models/{name}"):
        status = asyncio.run(status_of(app, path))
        if status != 200:
            raise RuntimeError(f"{path} is answered with {status}")


async def status_of(app: Any, path: str) -> int:
    """Return the status of the answer to GET."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http", "path": path,
        "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": [], "client": None, "server": None,
    }  # fmt: skip

    bodies = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not bodies:
            await asyncio.Event().wait()  # the client stays
        return bodies.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"]
