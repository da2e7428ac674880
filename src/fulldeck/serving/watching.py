"""What watches a running server: /metrics, the live page, and the webhook for alerts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from math import prod
from typing import Any

import numpy as np

from fulldeck.monitoring.panels import SERVER
from fulldeck.monitoring.scaling import Controller, Load, Scaling
from fulldeck.monitoring.traffic import CARRIED, Traffic
from fulldeck.package import Package, PackagedModel, TensorSpec
from fulldeck.serving.app import App
from fulldeck.serving.autoscaler import Autoscaler
from fulldeck.serving.http import Request, Response
from fulldeck.serving.meter import Meter
from fulldeck.serving.metrics import Exposition, ServerMetrics
from fulldeck.serving.monitor import EventStream, Monitor
from fulldeck.serving.protocol import DATATYPES
from fulldeck.serving.served import Served

HTML = "text/html; charset=utf-8"


def watch(
    app: App,
    metrics: ServerMetrics,
    queue: Served,
    supervisor: Served,
    moved: Traffic,
    scaling: Scaling | None,
    guarded: bool,
) -> list[Callable[[], Coroutine[Any, Any, None]]]:
    """Give `app` the routes that show the server, and return what must run meanwhile, each until cancelled."""
    scaler = None
    if scaling is None:
        # Alertmanager's configuration is the same for all servers: here its deliveries change nothing.
        app.add("/alerts", "POST", _unneeded, "alerts")
    else:
        meter = Meter(metrics, queue, supervisor, moved)

        def load() -> Load:
            return meter.read().load()

        scaler = Autoscaler(Controller(scaling), supervisor, load, metrics, guarded=guarded)
        app.add("/alerts", "POST", scaler.answer, "alerts")
    events = EventStream(scaler.decisions if scaler is not None else dict)
    exposition = Exposition(metrics, queue, supervisor)
    monitor = Monitor(Meter(metrics, queue, supervisor, moved), exposition, events)
    page = Page(metrics.model, scaling)
    app.add("/metrics", "GET", monitor.answer, "metrics")
    app.add("/ui", "GET", page.answer, "ui")
    app.add("/ui/events", "GET", events.answer, "ui")
    return [monitor.run, *([scaler.run] if scaler is not None else [])]


async def _unneeded(request: Request) -> Response:
    return Response(200, b"{}")


class Page:
    """GET /ui: one page without anything of the server's state, which comes by its events."""

    def __init__(self, model: str, scaling: Scaling | None) -> None:
        self._model = model
        self._scaling = scaling
        self._written: bytes | None = None

    async def answer(self, request: Request) -> Response:
        """The page; drawn when it is first asked for."""
        if self._written is None:
            self._written = await asyncio.to_thread(self._write)
        return Response(200, self._written, HTML)

    def _write(self) -> bytes:
        from fulldeck.report.live_page import live_page

        bounds = None if self._scaling is None else (self._scaling.min_replicas, self._scaling.max_replicas)
        return live_page(self._model, SERVER, events="/ui/events", bounds=bounds).encode()


def traffic(package: Package, model: PackagedModel) -> Traffic:
    """As it was profiled when the package was made; else its file's bytes and its tensors', which is less."""
    if CARRIED in package.service.carried:
        return Traffic(**package.service.carried[CARRIED])
    specs = (*package.service.inputs, *package.service.outputs)
    return Traffic((package.folder / model.path).stat().st_size, sum(map(_row_bytes, specs)))


def _row_bytes(spec: TensorSpec) -> int:
    return prod(size for size in spec.shape[1:] if size > 0) * np.dtype(DATATYPES[spec.datatype]).itemsize
