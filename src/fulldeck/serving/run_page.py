"""The live page of a run, at /ui of a small server on loopback, and its figures for Prometheus at /metrics."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

from fulldeck.errors import BadInput
from fulldeck.monitoring.panels import TRAINING
from fulldeck.monitoring.training import LIVE, Moment
from fulldeck.serving.http import HttpServer, Refusal, Request, Respond, Response
from fulldeck.serving.monitor import EventStream
from fulldeck.serving.server import BACKLOG, listening, unfailing
from fulldeck.serving.training_meter import TrainingMeter
from fulldeck.serving.training_metrics import TrainingExposition

HTML = "text/html; charset=utf-8"
SECONDS = 1.0
LARGEST_BODY, DEADLINE_SECONDS, CONNECTIONS = 1024, 10.0, 64


def serve_run(run: Path, *, port: int = 8002, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve the live page of the training in the folder `run` on loopback, until SIGINT or SIGTERM.

    `port` 0 takes any free one; `on_ready` gets the URL. Must run in the main thread. Raises BadInput for what
    is no run, and for a port that is taken.
    """
    if not (run / LIVE).is_file() and not (run / "recipe.yaml").is_file():
        raise BadInput(
            f"{run} is no run: it has no {LIVE} and no recipe.yaml; name a run folder such as runs/latest"
        )
    run = run.resolve()  # by tomorrow runs/latest is another one
    with listening("127.0.0.1", port) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        async def main() -> None:
            loop, stopping = asyncio.get_running_loop(), asyncio.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stopping.set)
            page = RunPage(run)
            http = HttpServer(
                page, max_body=LARGEST_BODY, deadline=DEADLINE_SECONDS, max_connections=CONNECTIONS
            )
            server = await loop.create_server(http.connection, sock=listener, backlog=BACKLOG)
            tasks = [loop.create_task(unfailing(run)) for run in (http.sweep, page.follow)]
            if on_ready is not None:
                on_ready(url)
            await stopping.wait()
            server.close()
            await http.drain()
            for task in tasks:
                task.cancel()

        asyncio.run(main())


class RunPage:
    """Answers for the run in a folder."""

    def __init__(self, run: Path) -> None:
        self._name = run.name
        self._meter = TrainingMeter(run)
        self._events = EventStream(lambda: {"state": state(self._meter.last, self._meter.running)})
        self._exposition = TrainingExposition(self._meter)
        self._written: bytes | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def follow(self) -> None:
        """Look each second, until cancelled."""
        while True:
            new = [reading.to_json() for reading in self._meter.look(time.time())]
            for reading in new:
                self._events.add(reading)
            if not new:
                self._events.add(None)
            await asyncio.sleep(SECONDS)

    def admit(self, request: Request) -> None:
        """Refuse what there is not."""
        if request.path not in ("/", "/ui", "/ui/events", "/metrics"):
            raise Refusal(404, f"there is no {request.path[:200]}; there is /ui, /metrics")
        if request.method not in ("GET", "HEAD"):
            raise Refusal(405, f"use GET for {request.path}", ("allow", "GET"))

    def refused(self, refusal: Refusal) -> None:
        """Nobody counts them."""

    def answer(self, request: Request, respond: Respond) -> Callable[[], object]:
        """The page, its events, or the metrics."""
        task = asyncio.get_running_loop().create_task(self._answer(request, respond))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task.cancel

    async def _answer(self, request: Request, respond: Respond) -> None:
        if request.path == "/ui/events":
            try:
                respond(await self._events.answer(request))
            except Refusal as refusal:
                respond(refusal.response)
        elif request.path == "/metrics":
            content, kind = self._exposition.render()
            respond(Response(200, content, kind))
        else:
            if self._written is None:
                self._written = await asyncio.to_thread(self._write)
            respond(Response(200, self._written, HTML))

    def _write(self) -> bytes:
        from fulldeck.report.live_page import live_page

        return live_page(self._name, TRAINING, events="/ui/events").encode()


def state(moment: Moment | None, running: bool) -> tuple[str, str]:
    """Where the run is, in words, and the kind of its mark on the page."""
    if moment is None:
        return "nothing is known of it yet", ""
    if moment.status != "running":
        return moment.status, {"finished": "finished", "failed": "failed"}.get(moment.status, "")
    if not running:
        return f"its process is gone; it was at {moment.stage or 'the start'}", "failed"
    if moment.stage != "train":
        return f"at {moment.stage}" if moment.stage else "starting", "finished"
    return (
        f"epoch {moment.epoch + 1} of {moment.epochs}, step {moment.step:,} of {moment.steps:,}",
        "finished",
    )
