"""Readings of a server: what its counters grew by since the reading before, and what its devices do."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fulldeck.monitoring.devices import Device, Processor, cores
from fulldeck.monitoring.gpus import Gpus
from fulldeck.monitoring.recording import Counts
from fulldeck.monitoring.scaling import Load
from fulldeck.monitoring.traffic import Traffic
from fulldeck.serving.metrics import INFERENCE, ServerMetrics
from fulldeck.serving.rate_limit import OverRate
from fulldeck.serving.served import Served

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
READINGS_OF_LATENCY = 5
"""Quantiles are of this many readings together: one second may hold no request."""


@dataclass(frozen=True)
class Reading:
    """One look at a server, over `seconds`. Rates are a second."""

    at: float
    """When, in seconds since 1970."""
    seconds: float
    requests: float
    errors: float
    """Answers with 429 or 5xx."""
    samples: float
    batch_rows: float | None
    busy: float | None
    """Share of their time that ready engine processes spent on batches; None without any."""
    queue: float
    """Requests that waited, the mean."""
    p50: float | None
    p90: float | None
    p99: float | None
    """Seconds."""
    replicas_ready: int
    replicas_wanted: int
    devices: tuple[Device, ...]

    @property
    def utilisation(self) -> float | None:
        """Of the busiest device; None where one could not be read: it may be that one."""
        values = [device.utilisation for device in self.devices]
        known = [value for value in values if value is not None]
        return max(known) if known and len(known) == len(values) else None

    def load(self) -> Load:
        """What scaling looks at."""
        whole = self.replicas_ready == self.replicas_wanted
        return Load(self.at, self.utilisation, self.busy, self.queue, self.replicas_ready, whole)

    def to_json(self) -> dict[str, Any]:
        """As the live page takes it."""
        return {**asdict(self), "utilisation": self.utilisation}


class Meter:
    """Reads one server; each meter has readings of its own, so one does not disturb another."""

    def __init__(self, metrics: ServerMetrics, queue: Served, supervisor: Served, traffic: Traffic) -> None:
        self._metrics = metrics
        self._queue = queue
        self._supervisor = supervisor
        self._traffic = traffic
        self._gpus = Gpus()
        self._processor = Processor()
        self._processor.read(supervisor.processes, 1)
        self._latencies: deque[Counts] = deque(maxlen=READINGS_OF_LATENCY)
        self._then = time.monotonic()
        self._totals = self._read_totals()
        self._counts = self._latency()

    def read(self) -> Reading:
        """What has happened since the last call."""
        self._metrics.settle()
        now = time.monotonic()
        seconds, self._then = max(now - self._then, 1e-6), now
        totals, before = self._read_totals(), self._totals
        self._totals = totals
        counts = self._latency()
        self._latencies.append(counts - self._counts)
        self._counts = counts
        requests, errors, rows, batches, busy, waited = (
            new - old for new, old in zip(totals, before, strict=True)
        )
        ready = self._supervisor.ready_replicas
        histogram = self._metrics.latency[INFERENCE[0]]
        recent = sum(self._latencies, start=0 * counts)
        quantiles = {name: histogram.quantile(recent, share) for name, share in QUANTILES.items()}
        moved = (batches * self._traffic.batch + rows * self._traffic.row) / seconds
        room = min(cores(), max(1, ready) * self._supervisor.threads)
        cpu = self._processor.read(
            self._supervisor.processes,
            room,
            front=os.getpid(),
            estimate=moved if self._traffic.batch else None,
        )
        return Reading(
            at=time.time(),
            seconds=seconds,
            requests=requests / seconds,
            errors=errors / seconds,
            samples=rows / seconds,
            batch_rows=rows / batches if batches else None,
            busy=min(1.0, busy / seconds / ready) if ready else None,
            queue=waited / seconds,
            **quantiles,
            replicas_ready=ready,
            replicas_wanted=self._supervisor.replicas,
            devices=(cpu, *self._gpus.read()),
        )

    def _read_totals(self) -> tuple[float, ...]:
        metrics = self._metrics
        answers = [(key, counter.value) for key, counter in metrics.answers.items()]
        return (
            sum(count for (route, _), count in answers if route in INFERENCE),
            sum(
                count
                for (route, status), count in answers
                if status >= 500 or (status == 429 and route != OverRate.route)
            ),
            metrics.rows.value,
            metrics.batches.value,
            self._supervisor.busy_seconds(),
            self._queue.waited_seconds(),
        )

    def _latency(self) -> Counts:
        first, *others = (histogram.counts() for histogram in self._metrics.latency.values())
        return sum(others, start=first)


def mean_of(readings: Sequence[Reading]) -> Reading:
    """The last of `readings`, its devices being the means of all; one that was missing once is missing."""
    last = readings[-1]
    devices = []
    for device in last.devices:
        same = [one for reading in readings for one in reading.devices if one.name == device.name]
        devices.append(
            replace(
                device,
                utilisation=_mean([one.utilisation for one in same]),
                bandwidth=_mean([one.bandwidth for one in same if one.estimated == device.estimated]),
            )
        )
    return replace(last, devices=tuple(devices))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
