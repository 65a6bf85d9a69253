"""What the server counts, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.process_collector import ProcessCollector

__all__ = ["CONTENT_TYPE", "Metrics"]

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """One registry per server. ``waiting`` and ``held`` give the requests inside and the bytes of their bodies."""

    def __init__(self, waiting: Callable[[], int], held: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "segmentation_requests", "Requests by what they asked and how that ended.", ["route", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "segmentation_request_seconds", "From the head of a request to its answer.", ["route"], buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.network = Histogram(
            "segmentation_network_seconds", "What the network took.", buckets=SECONDS, registry=self.registry
        )
        inside = Gauge("segmentation_requests_inside", "Requests that wait or are worked on.", registry=self.registry)
        inside.set_function(waiting)
        size = Gauge("segmentation_body_bytes", "Bytes of bodies in memory.", registry=self.registry)
        size.set_function(held)
        ProcessCollector(registry=self.registry)

    def count(self, scope: Mapping[str, Any], status: int, seconds: float) -> None:
        """Count a request that is over; its route is the method that answered, never a text of the client's."""
        route = getattr(scope.get("endpoint"), "__name__", "page")
        self.requests.labels(route, status).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return everything counted so far."""
        return generate_latest(self.registry)
