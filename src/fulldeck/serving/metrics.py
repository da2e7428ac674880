"""What the server counts, and how Prometheus reads it.

All of it is counted in the front process, which sees every request and every batch, so nothing is lost with an
engine process that dies.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import fulldeck
from fulldeck.monitoring.recording import ROWS, SECONDS, Counter, Histogram, bucket

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from fulldeck.monitoring.devices import Device
    from fulldeck.serving.meter import Reading
    from fulldeck.serving.served import Served

STALE_SECONDS = 5.0
"""Age from which a reading is no longer shown."""
INFERENCE = ("infer", "predict")
"""Routes that run the model; the others have no latency to speak of."""
EXPECTED = (200, 400, 429, 500, 503, 504)
"""Statuses that inference is counted by from the start."""


class ServerMetrics:
    """Counters of one served model since the server's start."""

    def __init__(self, model: str) -> None:
        self.model = model
        # Those that rules and charts ask for are there from the start: what first appears with its first answer
        # has not grown, as Prometheus sees it.
        self.answers = {(route, status): Counter() for route in INFERENCE for status in EXPECTED}
        """(route, status) to the number of answers."""
        self.latency = {route: Histogram(SECONDS) for route in INFERENCE}
        """Seconds from a request's complete arrival to its answer, by route, of answers below 400."""
        self.batch_rows = Histogram(ROWS)
        self.rows = Counter()
        self.batches = Counter()
        self.decisions = {"in": Counter(), "out": Counter()}

    def answered(self, route: str, status: int, seconds: float) -> None:
        """One request has been answered."""
        self.count(route, status)
        if status < 400 and route in self.latency:
            self.latency[route].observe(seconds)

    def count(self, route: str, status: int) -> None:
        """One answer, without its time."""
        counter = self.answers.get((route, status))
        if counter is None:
            counter = self.answers[route, status] = Counter()
        counter.value += 1

    def batch(self, rows: int) -> None:
        """An engine process has run a batch."""
        self.batch_rows.observe(rows)
        self.rows.value += rows
        self.batches.value += 1

    def settle(self) -> None:
        """Sort in what was recorded; to be called now and then, or a server that nobody scrapes would grow."""
        for histogram in (*self.latency.values(), self.batch_rows):
            histogram.settle()


class Exposition:
    """Renders everything in Prometheus' text format, by the library that Prometheus' makers keep.

    `recent` is the mean of the last readings. What is not known, or no longer, is left out, never written
    as 0.
    """

    def __init__(self, metrics: ServerMetrics, queue: Served, supervisor: Served) -> None:
        from prometheus_client import CollectorRegistry, ProcessCollector

        self._metrics = metrics
        self._queue = queue
        self._supervisor = supervisor
        self.recent: Reading | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self) -> tuple[bytes, str]:
        """The page and its content type."""
        from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks for."""
        yield from self._requests()
        yield from self._engine()
        yield from self._replicas()
        recent = self.recent
        fresh = recent is not None and 0 <= time.time() - recent.at <= STALE_SECONDS
        yield from device_families(
            recent.devices if recent is not None and fresh else (), self._metrics.model
        )

    def _requests(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        model = self._metrics.model
        requests = CounterMetricFamily(
            "fulldeck_requests", "Answered requests.", labels=("model", "route", "status")
        )
        for (route, status), counter in sorted(self._metrics.answers.items()):
            requests.add_metric((model, route, str(status)), counter.value)
        yield requests
        latency = HistogramMetricFamily(
            "fulldeck_request_duration_seconds",
            "From a request's complete arrival to its answer, of answers below 400.",
            labels=("model", "route"),
        )
        for route, histogram in self._metrics.latency.items():
            latency.add_metric((model, route), *_buckets(histogram))
        yield latency
        for name, said, value in (
            ("fulldeck_queue_requests", "Requests that wait for an engine process.", len(self._queue)),
            ("fulldeck_queue_limit_requests", "Requests that may wait.", self._queue.limit),
        ):
            yield _of_model(GaugeMetricFamily, name, said, model, value)
        yield _of_model(
            CounterMetricFamily,
            "fulldeck_queue_wait_seconds",
            "Time that requests have waited for an engine process, together; its rate is the mean queue.",
            model,
            self._queue.waited_seconds(),
        )

    def _engine(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        metrics = self._metrics
        rows = HistogramMetricFamily("fulldeck_batch_rows", "Rows of a batch.", labels=("model",))
        rows.add_metric((metrics.model,), *_buckets(metrics.batch_rows))
        yield rows
        for name, said, value in (
            ("fulldeck_samples", "Rows that the model has answered.", metrics.rows.value),
            (
                "fulldeck_engine_busy_seconds",
                "Time that engine processes have spent on batches, together.",
                self._supervisor.busy_seconds(),
            ),
            (
                "fulldeck_engine_restarts",
                "Engine processes started in place of one that ended.",
                self._supervisor.restarts,
            ),
        ):
            yield _of_model(CounterMetricFamily, name, said, metrics.model, value)

    def _replicas(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        model, supervisor = self._metrics.model, self._supervisor
        for name, said, value in (
            ("fulldeck_replicas_ready", "Engine processes that take requests.", supervisor.ready_replicas),
            ("fulldeck_replicas_wanted", "Engine processes that there should be.", supervisor.replicas),
        ):
            yield _of_model(GaugeMetricFamily, name, said, model, value)
        decisions = CounterMetricFamily(
            "fulldeck_scale_decisions", "Times that replicas were changed.", labels=("model", "direction")
        )
        for direction, counter in self._metrics.decisions.items():
            decisions.add_metric((model, direction), counter.value)
        yield decisions
        yield InfoMetricFamily("fulldeck_build", "This server.", {"version": fulldeck.__version__})


def device_families(devices: Iterable[Device], model: str) -> Iterator[Metric]:
    """Utilisation, memory and bandwidth of each device, as far as known; and how many devices there are."""
    from prometheus_client.core import GaugeMetricFamily

    devices = list(devices)
    count = GaugeMetricFamily(
        "fulldeck_devices", "Devices; fewer utilisations mean that one is not known.", labels=("model",)
    )
    if devices:
        count.add_metric((model,), len(devices))
    yield count
    for name, said, figures in (
        (
            "fulldeck_utilisation_ratio",
            "Share of the device that is used.",
            [device.utilisation for device in devices],
        ),
        ("fulldeck_memory_used_bytes", "Memory in use.", [device.memory for device in devices]),
        (
            "fulldeck_memory_bandwidth_bytes_per_second",
            "Bytes to and from memory, counted by the hardware for all that runs on it.",
            [None if device.estimated else device.bandwidth for device in devices],
        ),
        (
            "fulldeck_memory_bandwidth_estimated_bytes_per_second",
            "Bytes to and from memory, estimated: of a GPU from its share of busy memory time, of the CPU from "
            "the bytes of a batch and a row.",
            [device.bandwidth if device.estimated else None for device in devices],
        ),
    ):
        family = GaugeMetricFamily(name, said, labels=("model", "device"))
        for device, value in zip(devices, figures, strict=True):
            if value is not None:
                family.add_metric((model, device.name), value)
        yield family


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    pairs, total = histogram.cumulative()
    return [(bucket(bound), float(count)) for bound, count in pairs], total


def _of_model(family: Any, name: str, said: str, model: str, value: float) -> Metric:
    made = family(name, said, labels=("model",))
    made.add_metric((model,), value)
    found: Metric = made
    return found
