"""Work that takes long, kept off the thread that talks to clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


class Threads:
    """``count`` threads, given to those who ask in their order. Whoever stops waiting leaves nothing behind."""

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, name)
        self._free = asyncio.Semaphore(count)

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return what ``function`` returns. Nothing stops it once it has begun, and until it ends its thread is taken."""
        # The pool's own queue would keep the arguments of those who left.
        await self._free.acquire()
        loop = asyncio.get_running_loop()

        def free(_: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(self._free.release)

        future = self._pool.submit(function, *arguments)
        future.add_done_callback(free)
        return await asyncio.wrap_future(future)
