"""MindSpore networks whose graphs are compiled once, which takes most of the time of a short run: all tests of a group share them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

NETWORKS: dict = {}
"""By configuration, number of classes and role."""


@contextmanager
def compiled_once() -> Iterator[None]:
    """Let MindSpore's sessions hand out shared networks, with the values of a new one: only the latest owner may use it."""
    if importlib.util.find_spec("mindspore") is None:
        yield
        return
    from mindspore_impl.checkpoint import load_network, network_tensors
    from mindspore_impl.session import Session

    make = Session.network

    def network(self, role: str):
        fresh = make(self, role)
        key = self.config.network, fresh.classes, role
        values = network_tensors(fresh)
        load_network(NETWORKS.setdefault(key, fresh), values, role)
        return NETWORKS[key]

    Session.network = network
    try:
        yield
    finally:
        Session.network = make
