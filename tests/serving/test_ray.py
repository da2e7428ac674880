"""Engines on a cluster of Ray behind the same front: same answers, replaced when they die, scaled by load."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from .packages import sum_package
from .servers import Server, eventually, meanwhile

pytest.importorskip("ray", reason='pip install "fulldeck[ray]"')
pytestmark = pytest.mark.services

RUN = """
import json, sys
from pathlib import Path
from fulldeck.monitoring.scaling import Scaling
from fulldeck.serving import serve
scaling = json.loads(sys.argv[2])
serve(Path(sys.argv[1]), port=0, on="ray", scaling=Scaling(**scaling) if scaling else None,
      on_ready=lambda at: print(at.url, flush=True))
"""


@contextmanager
def on_ray(package: Path, **scaling: Any) -> Iterator[Server]:
    """A server whose engines are actors of a cluster of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(package), json.dumps(scaling)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    url = process.stdout.readline()
    try:
        yield Server(process, int(url.rsplit(":", 1)[1]), False)
    finally:
        descendants = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.communicate(timeout=60)
        _, alive = psutil.wait_procs(descendants, timeout=20)
        assert not alive


def engines(server: Server) -> list[int]:
    """Process numbers of the actors."""
    below = psutil.Process(server.process.pid).children(recursive=True)
    return [one.pid for one in below if "RayEngine" in one.name() or "RayEngine" in " ".join(one.cmdline())]


def metric(server: Server, name: str) -> float:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith((f"{name} ", f"{name}{{"))))


def test_the_same_answers_and_another_engine_when_one_dies(tmp_path: Path) -> None:
    with on_ray(sum_package(tmp_path / "package")) as server:
        status, answer = server.infer("sums", [1, 2, 3])
        assert (status, answer["outputs"][0]["data"]) == (200, [6.0])
        assert server.infer("sums", [1, 2])[0] == 400
        (engine,) = engines(server)
        os.kill(engine, signal.SIGKILL)
        eventually(lambda: metric(server, "fulldeck_engine_restarts_total") == 1)
        eventually(lambda: server.infer("sums", [1, 2, 3])[0] == 200)
        assert engines(server) != [engine]


def test_actors_come_when_requests_wait_and_go_when_there_is_nothing_to_do(tmp_path: Path) -> None:
    package = sum_package(tmp_path / "package", workers=1, max_batch=1)
    limits = {"min_replicas": 1, "max_replicas": 2, "interval_s": 0.3, "cooldown_s": 0.5}
    with on_ray(package, **limits) as server, meanwhile(8) as call:
        (first,) = engines(server)
        os.kill(first, signal.SIGSTOP)
        asked = [call(server.infer, "sums", [1, 2, 3]) for _ in range(6)]
        eventually(lambda: metric(server, "fulldeck_replicas_wanted") == 2)
        os.kill(first, signal.SIGCONT)
        assert {one.result()[0] for one in asked} <= {200, 503, 504}
        eventually(lambda: metric(server, "fulldeck_replicas_ready") == 1, 60)
        assert server.infer("sums", [1, 2, 3])[0] == 200
