"""Preparing one batch ahead: the same batches in the same order, errors where they belong, no thread left."""

from __future__ import annotations

import threading

import pytest

from common.loading.ahead import one_ahead


def numbered(count: int, begun: list[int], error_at: int | None = None):
    for index in range(count):
        begun.append(index)
        if index == error_at:
            raise ValueError(f"batch {index}")
        yield {"stream": {"ids": [str(index)]}}


def named(batch):
    where = threading.get_ident()
    return lambda: (batch["stream"]["ids"][0], where, threading.get_ident())


def test_batches_come_in_order_prepared_elsewhere_and_finished_here():
    outcome = list(one_ahead(numbered(5, []), named))
    assert [name for name, *_ in outcome] == list("01234")
    assert all(prepared != threading.get_ident() == finished for _, prepared, finished in outcome)
    assert list(one_ahead(numbered(0, []), named)) == []


def test_one_batch_is_ahead_and_no_more():
    begun: list[int] = []
    batches = one_ahead(numbered(9, begun), named)
    for index in range(4):
        next(batches)
        for _ in range(200):
            if len(begun) == index + 2:
                break
            threading.Event().wait(0.01)
        assert begun == list(range(index + 2))


@pytest.mark.parametrize("where", ["loading", "preparing", "finishing"])
def test_an_error_comes_at_its_batch(where):
    def prepare(batch):
        if batch["stream"]["ids"] == ["2"] and where == "preparing":
            raise ValueError("batch 2")

        def finish():
            if batch["stream"]["ids"] == ["2"] and where == "finishing":
                raise ValueError("batch 2")
            return batch

        return finish

    batches, seen = one_ahead(numbered(5, [], 2 if where == "loading" else None), prepare), []
    with pytest.raises(ValueError, match="batch 2"):
        for batch in batches:
            seen.append(batch["stream"]["ids"][0])
    assert seen == ["0", "1"]


def test_leaving_early_leaves_no_thread():
    before = threading.active_count()
    batches = one_ahead(numbered(100, []), named)
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before
