"""The whole chain on real parts: load, scrape, rule, Alertmanager, webhook, controller, replicas."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fulldeck.monitoring.scaling import LOW
from tests.serving.packages import work_package
from tests.serving.servers import Server, eventually
from tests.serving.test_metrics import scrape
from tests.serving.test_scaling import scaled

from .live_stack import LiveStack, live_stack

pytestmark = pytest.mark.services
SECONDS = 90.0
"""Time in which anything must have happened; it takes a tenth of that."""


class Clients:
    """Threads that ask one request after the other; none may fail."""

    def __init__(self, server: Server, token: str) -> None:
        self.server = server
        self.authorization = f"Bearer {token}"
        self.statuses: list[int] = []
        self.active = 0
        self.ended = False
        self.threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(8)]
        for thread in self.threads:
            thread.start()

    def _ask(self, number: int) -> None:
        tensor = {"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
        while not self.ended:
            if number >= self.active:
                time.sleep(0.05)
                continue
            self.statuses.append(self._status({"inputs": [tensor]}))
            if self.active == 1:
                time.sleep(0.3)

    def _status(self, body: dict[str, Any]) -> int:
        """0 where the connection fails."""
        path = "/v2/models/work/infer"
        try:
            return self.server.ask("POST", path, body, authorization=self.authorization)[0]
        except (http.client.HTTPException, OSError):
            return 0

    def end(self) -> None:
        self.ended = True
        for thread in self.threads:
            thread.join(30)


class Chain:
    """A server that scales only if Alertmanager says so, watched by both programs, and its clients."""

    def __init__(self, stack: LiveStack, server: Server, clients: Clients) -> None:
        self.stack = stack
        self.server = server
        self.clients = clients

    def figures(self) -> dict[tuple[str, ...], float]:
        return scrape(self.server, self.stack.token)

    @property
    def replicas(self) -> int:
        return int(self.figures()["fulldeck_replicas_wanted",])

    def alerts(self) -> float:
        """Deliveries of Alertmanager that the server has taken."""
        return self.figures().get(("fulldeck_requests_total", "alerts", "200"), 0.0)

    def load(self, clients: int) -> None:
        """So many that always wait for an answer; one alone asks now and then."""
        self.clients.active = clients

    def until(self, condition: Callable[[], bool]) -> float:
        """Seconds until it holds."""
        began = time.monotonic()
        eventually(condition, SECONDS)
        return time.monotonic() - began


@contextmanager
def chain(folder: Path, replicas: int = 2, **scaling: Any) -> Iterator[Chain]:
    package = work_package(folder / "package", workers=replicas, max_batch=1)
    settings = {
        "interval_s": 1.0,
        "cooldown_s": 2.0,
        "max_replicas": replicas,
        "needs_alert": True,
        **scaling,
    }
    with live_stack(folder / "monitoring") as stack, scaled(package, stack.token, **settings) as server:
        stack.configure([f"127.0.0.1:{server.port}"])
        clients = Clients(server, stack.token)
        try:
            yield Chain(stack, server, clients)
        finally:
            clients.end()


def test_load_falls_and_replicas_go_load_returns_and_they_come(tmp_path: Path) -> None:
    with chain(tmp_path) as one:
        one.load(1)
        one.stack.start("alertmanager")
        assert one.replicas == 2
        one.stack.start("prometheus")
        one.until(lambda: one.replicas == 1)
        assert one.stack.firing(LOW)
        assert one.alerts() >= 1
        one.load(8)
        one.until(lambda: one.replicas == 2)
        one.until(lambda: len(one.server.workers) == 2)
        one.clients.end()
        assert len(one.clients.statuses) > 20
        assert set(one.clients.statuses) == {200}
        figures = one.figures()
        assert figures["fulldeck_scale_decisions_total", "in"] == 1
        assert figures["fulldeck_scale_decisions_total", "out"] == 1


@pytest.mark.slow
def test_load_stays_and_falls_and_comes_and_goes(tmp_path: Path) -> None:
    """All of a day's turns, in a minute: nothing is lost in any of them, and nothing is done twice."""
    with chain(tmp_path) as one:
        one.stack.start("alertmanager")
        one.stack.start("prometheus")
        for turn in range(2):
            one.load(8)
            one.until(lambda: one.replicas == 2 and len(one.server.workers) == 2)
            time.sleep(8)
            assert one.replicas == 2, "busy replicas stay"
            one.load(1)
            one.until(lambda: one.replicas == 1)
            assert one.figures()["fulldeck_scale_decisions_total", "in"] == turn + 1
        one.clients.end()
        assert set(one.clients.statuses) == {200}
        assert one.figures()["fulldeck_scale_decisions_total", "out"] == 1


@pytest.mark.slow
def test_without_alertmanager_nothing_goes_and_after_its_outage_one_does_once(tmp_path: Path) -> None:
    # Of four replicas two stay, so that a delivery that comes again could remove one more.
    with chain(tmp_path, replicas=4, cooldown_s=600.0) as one:
        one.load(1)
        one.stack.start("prometheus")
        one.until(lambda: one.stack.firing(LOW))
        time.sleep(10)
        assert one.replicas == 4, "the alert fires, and nobody hears of it"
        one.stack.start("alertmanager")
        assert one.until(lambda: one.replicas == 2) < 20
        one.stack.stop("alertmanager")
        time.sleep(10)
        heard = one.alerts()
        one.stack.start("alertmanager")
        one.until(lambda: one.alerts() >= heard + 2)
        assert one.figures()["fulldeck_scale_decisions_total", "in"] == 1
        assert one.replicas == 2
        one.clients.end()
        assert set(one.clients.statuses) == {200}


@pytest.mark.slow
def test_a_server_that_cannot_be_scraped_never_looks_idle(tmp_path: Path) -> None:
    with chain(tmp_path) as one:
        (one.stack.folder / "token").write_text("wrong")
        one.load(1)
        one.stack.start("alertmanager")
        one.stack.start("prometheus")
        one.until(lambda: bool(one.stack.query('up{job="fulldeck"} == 0')))
        for _ in range(12):
            time.sleep(1)
            assert not one.stack.firing(LOW)
        assert one.replicas == 2
