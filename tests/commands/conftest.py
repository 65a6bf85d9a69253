"""Compiling takes most of the time that MindSpore needs for a short run: runs with the same network share its graphs."""

from __future__ import annotations

import pytest

from tests.commands.networks import NETWORKS
from tests.goldens.frameworks import installed


@pytest.fixture(autouse=True)
def networks_compiled_once(monkeypatch) -> None:
    """Hand out one MindSpore network per configuration and role, with the values of a new one."""
    if not installed("mindspore"):
        return
    from mindspore_impl import session
    from mindspore_impl.checkpoint import load_network, network_tensors

    make = session.Session.network

    def network(self, role: str):
        fresh = make(self, role)
        key = self.config.network, fresh.classes, role
        values = network_tensors(fresh)
        load_network(NETWORKS.setdefault(key, fresh), values, role)
        return NETWORKS[key]

    monkeypatch.setattr(session.Session, "network", network)
