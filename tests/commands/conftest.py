"""Short runs of the commands in this process share MindSpore's compiled networks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.networks import compiled_once


@pytest.fixture(autouse=True)
def networks_compiled_once() -> Iterator[None]:
    """See :func:`tests.networks.compiled_once`."""
    with compiled_once():
        yield
