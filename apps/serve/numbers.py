"""What a server counts, in the words of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Numbers:
    """Counters of one server, which nothing else of the process adds to."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ecar_requests", "Requests answered.", ["path", "status"], registry=self.registry
        )
        self.left = Counter("ecar_left", "Requests whose sender had gone.", registry=self.registry)
        self.waiting = Gauge("ecar_waiting", "Images in the queue.", registry=self.registry)
        self.batch = Histogram(
            "ecar_batch_images", "Images of a batch.", buckets=SIZES, registry=self.registry
        )
        self.waited = Histogram(
            "ecar_wait_seconds", "From a request to its batch.", registry=self.registry
        )
        self.computed = Histogram(
            "ecar_batch_seconds", "Time that a batch took.", registry=self.registry
        )

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
