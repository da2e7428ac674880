"""Replicas by load: samples for the controller, what it decides done, and Alertmanager's webhook."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from fulldeck.logs import tree
from fulldeck.monitoring.scaling import Controller, Load
from fulldeck.serving.http import Refusal, Request, Response
from fulldeck.serving.metrics import ServerMetrics
from fulldeck.serving.protocol import parse_json, to_json

log = tree.getChild("scaling")

SHOWN = 20
"""Decisions that a page shows."""


class Scaled(Protocol):
    """What has replicas."""

    @property
    def replicas(self) -> int:
        """How many there should be."""
        ...

    def resize(self, replicas: int) -> None:
        """Have so many."""
        ...


class Autoscaler:
    """Lets `controller` decide each `interval_s`, and whenever an alert comes in.

    `guarded`: whether the server wants a token; without one it takes no alerts.
    """

    def __init__(
        self,
        controller: Controller,
        scaled: Scaled,
        load: Callable[[], Load],
        metrics: ServerMetrics,
        *,
        guarded: bool,
    ) -> None:
        self._controller = controller
        self._guarded = guarded
        self._scaled = scaled
        self._load = load
        self._metrics = metrics

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._controller.scaling.interval_s)
            self._controller.see(self._load())
            self._decide()

    async def answer(self, request: Request) -> Response:
        """POST /alerts: a delivery of Alertmanager. It can only wake the controller, so it may come again."""
        if not self._guarded:
            raise Refusal(403, "alerts are taken with a token only: set FULLDECK_TOKEN for the server")
        heard = self._controller.alerts.hear(parse_json(request.body), time.time())
        self._decide()
        return Response(200, to_json({"alerts": heard, "replicas": self._scaled.replicas}))

    def decisions(self) -> dict[str, Any]:
        """The newest of them as `log`, the last one first."""
        return {"log": [decision.to_json() for decision in list(self._controller.log)[: -SHOWN - 1 : -1]]}

    def _decide(self) -> None:
        before = self._scaled.replicas
        wanted = self._controller.decide(time.time(), before)
        if wanted == before:
            return
        log.info(
            "%d replicas in place of %d: %s",
            wanted,
            before,
            self._controller.log[-1].reason,
            extra={"replicas": wanted, "before": before},
        )
        self._metrics.decisions["out" if wanted > before else "in"].add()
        self._scaled.resize(wanted)
