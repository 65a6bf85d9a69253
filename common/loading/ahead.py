"""One batch ahead: what a batch needs before its step is done in the background while the step before runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from common.methods.interface import Batch


def one_ahead(batches: Iterator[Batch], prepare: Callable[[Batch], Callable[[], Batch]]) -> Iterator[Batch]:
    """Yield the batches as ``prepare`` makes them: it runs in a thread of its own, what it returns in the caller's.

    Raises what ``batches`` and ``prepare`` raise, at the batch that it belongs to.
    """

    def following() -> Callable[[], Batch] | None:
        batch = next(batches, None)
        return None if batch is None else prepare(batch)

    with ThreadPoolExecutor(1) as thread:
        prepared = thread.submit(following)
        while (finish := prepared.result()) is not None:
            prepared = thread.submit(following)
            yield finish()
