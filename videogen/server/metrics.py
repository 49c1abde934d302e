"""Numbers for Prometheus: what this server answered and, from the database, what all servers together have to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from videogen.server.memory import resident_bytes

if TYPE_CHECKING:
    from videogen.server.service import Service

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of one server."""

    def __init__(self, service: Service):
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "videogen_request_seconds",
            "Time to the first byte of an answer.",
            ["method", "route", "status"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.submitted = Counter("videogen_jobs_submitted", "Jobs accepted.", ["dialect"], registry=self.registry)
        self.refused = Counter("videogen_requests_refused", "Answers of 4xx.", ["code"], registry=self.registry)
        self.registry.register(_Looks(service))

    def render(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)


class _Looks(Collector):
    """Gauges that are read when somebody asks."""

    def __init__(self, service: Service):
        self.service = service

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        service = self.service
        jobs = GaugeMetricFamily("videogen_jobs", "Jobs by state, of all servers on this database.", labels=["status"])
        counts = service.store.counts()
        for status in ("queued", "running", "completed", "failed", "cancelled"):
            jobs.add_metric([status], counts.get(status, 0))
        yield jobs
        rows = service.workers()
        workers = GaugeMetricFamily("videogen_workers", "Live workers by state.", labels=["state"])
        for state in ("loading", "idle", "running"):
            workers.add_metric([state], sum(row.state == state for row in rows))
        yield workers
        for name, text in (("resident", "Memory of a worker."), ("peak", "Largest memory of a worker.")):
            memory = GaugeMetricFamily(f"videogen_worker_{name}_bytes", text, labels=["worker"])
            for row in rows:
                if row.state != "server":
                    memory.add_metric([row.id], row.details.get(f"{name}_bytes", 0))
            yield memory
        steps = GaugeMetricFamily("videogen_step_seconds", "Mean time of one denoising step.", labels=["shape"])
        for shape, timing in service.timings().items():
            if timing.samples:
                steps.add_metric([shape], timing.step_seconds)
        yield steps
        outbox = GaugeMetricFamily("videogen_callbacks", "Callbacks of this server's threads.", labels=["outcome"])
        outbox.add_metric(["delivered"], service.messenger.delivered)
        outbox.add_metric(["failed"], service.messenger.failed)
        yield outbox
        yield GaugeMetricFamily(
            "videogen_files_bytes", "Bytes of clips and uploads.", value=service.janitor.total_bytes()
        )
        yield GaugeMetricFamily(
            "videogen_disk_free_bytes", "Free bytes where they lie.", value=service.storage.free_bytes()
        )
        resident = resident_bytes()
        if resident:
            yield GaugeMetricFamily("videogen_server_resident_bytes", "Memory of the server process.", value=resident)
