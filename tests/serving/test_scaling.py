"""Replicas of a real server: none too many, none too few, and no request lost on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .packages import sum_package
from .servers import Server, eventually, meanwhile, running

RUN = """
import json, sys
from pathlib import Path
from fulldeck.monitoring.scaling import Scaling
from fulldeck.serving import serve
serve(Path(sys.argv[1]), port=0, scaling=Scaling(**json.loads(sys.argv[2])),
      on_ready=lambda at: print(at.url, flush=True))
"""
FAST = {"interval_s": 0.3, "cooldown_s": 0.5, "max_replicas": 3}


@contextmanager
def scaled(package: Path, token: str = "", **scaling: Any) -> Iterator[Server]:
    """A server whose replicas scale, fast."""
    environment = os.environ | ({"FULLDECK_TOKEN": token} if token else {})
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(package), json.dumps(FAST | scaling)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    url = process.stdout.readline()
    try:
        yield Server(process, int(url.rsplit(":", 1)[1]), False)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def asking(server: Server, until: Callable[[], bool]) -> list[int]:
    """Statuses of requests, one after the other, until something holds."""
    statuses = []
    while not until():
        statuses.append(server.infer("sums", [1, 2, 3])[0])
    return statuses


def test_idle_replicas_go_one_half_at_a_time_and_no_request_is_lost(tmp_path: Path) -> None:
    with scaled(sum_package(tmp_path / "package", workers=3)) as server, meanwhile(4) as call:
        assert len(server.workers) == 3
        end = time.monotonic() + 60
        asked = call(asking, server, lambda: len(server.workers) == 1 or time.monotonic() > end)
        statuses = asked.result()
        assert set(statuses) == {200}
        eventually(lambda: len(server.workers) == 1)
        assert server.infer("sums", [1, 2, 3])[0] == 200


def test_replicas_come_when_requests_wait(tmp_path: Path) -> None:
    """The one replica is slow (stopped by turns), so a queue forms; the new one takes it."""
    package = sum_package(tmp_path / "package", workers=1, max_batch=1)
    with scaled(package, min_replicas=1, max_replicas=2) as server, meanwhile(8) as call:
        (first,) = server.workers
        os.kill(first, signal.SIGSTOP)
        asked = [call(server.infer, "sums", [1, 2, 3]) for _ in range(6)]
        eventually(lambda: len(server.workers) == 2)
        eventually(lambda: sum(one.done() for one in asked) >= 5)
        with suppress(ProcessLookupError):  # it may be one too many by now
            os.kill(first, signal.SIGCONT)
        statuses = sorted(one.result()[0] for one in asked)
        assert statuses[:5] == [200] * 5
        assert statuses[5] in (200, 504), "what the stopped one had in hand may have passed its deadline"


def test_alerts_need_a_token_and_only_wake(tmp_path: Path) -> None:
    package = sum_package(tmp_path / "package", workers=2)
    firing = {"version": "4", "alerts": []}
    with scaled(package, token="secret", needs_alert=True, min_replicas=1) as server:
        assert server.ask("POST", "/alerts", firing)[0] == 401
        authorization = "Bearer secret"
        assert server.ask("POST", "/alerts", {"version": "1"}, authorization=authorization)[0] == 400
        assert server.ask("POST", "/alerts", b"x" * 99, authorization=authorization)[0] == 400
        for _ in range(50):
            status, said = server.ask("POST", "/alerts", firing, authorization=authorization)
            assert (status, said["replicas"]) == (200, 2)
    with scaled(package) as server:
        status, said = server.ask("POST", "/alerts", firing)
        assert status == 403
        assert "FULLDECK_TOKEN" in said["error"]


def test_a_server_that_does_not_scale_takes_alerts_and_does_nothing(tmp_path: Path) -> None:
    package = sum_package(tmp_path / "package", workers=2)
    with running(package, FULLDECK_TOKEN="secret") as server:
        before = server.workers
        assert server.ask("POST", "/alerts", {"version": "4", "alerts": []})[0] == 401
        for _ in range(3):
            delivery = {"version": "4", "alerts": []}
            assert server.ask("POST", "/alerts", delivery, authorization="Bearer secret")[0] == 200
        assert server.workers == before
