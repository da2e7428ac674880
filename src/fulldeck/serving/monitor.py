"""Looks at the server once a second, for the live page and for Prometheus; and the events that the page gets."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from fulldeck.serving.http import Refusal, Request, Response
from fulldeck.serving.meter import Meter, Reading, mean_of
from fulldeck.serving.metrics import Exposition
from fulldeck.serving.protocol import to_json

SECONDS = 1.0
KEPT = 300
"""Readings that a page gets when it is opened."""
SMOOTHED = 5
"""Readings whose mean Prometheus sees: it looks less often, and must not see one second only."""
PAGES = 32
"""Pages that may be open at once."""

Facts = dict[str, Any]


@dataclass(frozen=True)
class _Told:
    """One event, and the one that will follow it: of several at once a page misses none."""

    reading: Facts | None
    coming: asyncio.Future[_Told]


class EventStream:
    """Server-sent events: all that is kept, then each new reading, to any number of pages up to PAGES.

    `beside` is what each event has beside its reading: the log of decisions, the state of a run.
    """

    def __init__(self, beside: Callable[[], Facts] = dict) -> None:
        self._beside = beside
        self._kept: deque[Facts] = deque(maxlen=KEPT)
        self._next: asyncio.Future[_Told] = asyncio.get_running_loop().create_future()
        self._open = 0

    def add(self, reading: Facts | None) -> None:
        """One more reading; None only shows that there is nothing new."""
        if reading is not None:
            self._kept.append(reading)
        told, self._next = self._next, asyncio.get_running_loop().create_future()
        told.set_result(_Told(reading, self._next))

    async def answer(self, request: Request) -> Response:
        """GET of the events."""
        if self._open >= PAGES:
            raise Refusal(429, f"{PAGES} pages are open already", ("retry-after", "10"))
        return Response(
            200, b"", "text/event-stream", (("cache-control", "no-store"),), stream=self._events()
        )

    async def _events(self) -> AsyncIterator[bytes]:
        self._open += 1
        try:
            coming = self._next
            yield _event("history", {"readings": list(self._kept), **self._beside()})
            while True:
                told = await asyncio.shield(coming)
                coming = told.coming
                yield _event("reading", {"reading": told.reading, **self._beside()})
        finally:
            self._open -= 1


class Monitor:
    """Reads the server's meter once a second."""

    def __init__(self, meter: Meter, exposition: Exposition, events: EventStream) -> None:
        self._meter = meter
        self._exposition = exposition
        self._events = events
        self._recent: deque[Reading] = deque(maxlen=SMOOTHED)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(SECONDS)
            reading = self._meter.read()
            self._recent.append(reading)
            self._exposition.recent = mean_of(self._recent)
            self._events.add(reading.to_json())

    async def answer(self, request: Request) -> Response:
        """GET /metrics."""
        content, kind = self._exposition.render()
        return Response(200, content, kind)


def _event(name: str, content: Facts) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), to_json(content))
