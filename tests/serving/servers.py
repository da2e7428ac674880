"""Real servers in processes of their own, and a small client."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

RUN = """
import sys
from pathlib import Path
from fulldeck.serving import serve
serve(Path(sys.argv[1]), host=sys.argv[2], port=int(sys.argv[3]),
      on_ready=lambda at: print(at.url, "torch" in sys.modules, flush=True))
"""


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    imported_torch: bool

    @property
    def workers(self) -> list[int]:
        """Process numbers of the engine processes."""
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of one request; a body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("content_type", "application/json")
        try:
            connection.request(
                method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
            )
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def infer(self, model: str, data: Any, datatype: str = "FP32", **content: Any) -> tuple[int, Any]:
        """An inference of one row."""
        tensor = {"name": "input", "shape": [1, len(data)], "datatype": datatype, "data": data}
        return self.ask("POST", f"/v2/models/{model}/infer", {"inputs": [tensor], **content})

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The engine processes do nothing inside this block: what comes in waits."""
        workers = self.workers
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        try:
            yield
        finally:
            for worker in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGCONT)


def start(package: Path, host: str = "127.0.0.1", port: int = 0, **environment: str) -> Server:
    """Start a server; it is up when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(package), host, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    words = process.stdout.readline().split()
    if not words:
        _, errors = process.communicate()
        raise RuntimeError(errors)
    return Server(process, int(words[0].rsplit(":", 1)[1]), words[1] == "True")


@contextlib.contextmanager
def running(package: Path, host: str = "127.0.0.1", **environment: str) -> Iterator[Server]:
    """A server for the length of a block."""
    server = start(package, host, **environment)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.communicate(timeout=30)


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until `condition` holds; fail if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.02)


@contextlib.contextmanager
def meanwhile(threads: int = 16) -> Iterator[Callable[..., Future[Any]]]:
    """A function that runs a call in another thread."""
    with ThreadPoolExecutor(threads) as pool:
        yield pool.submit
