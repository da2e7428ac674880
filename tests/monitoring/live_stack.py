"""A real Prometheus and Alertmanager, started from a folder as `fulldeck dashboard` writes it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fulldeck.monitoring.settings import Monitoring
from fulldeck.monitoring.stack import write_stack

from .services import program


class LiveStack:
    """Both programs on free ports of loopback. The servers' token is there before they are."""

    def __init__(self, folder: Path, settings: Monitoring) -> None:
        self.programs = {
            "prometheus": program("prometheus"),
            "alertmanager": program("prometheus-alertmanager", "alertmanager"),
        }
        self.folder = write_stack(folder, settings)
        self.settings = settings
        self.token = (folder / "token").read_text()
        self.ports = {"prometheus": free_port(), "alertmanager": free_port()}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def configure(self, servers: Sequence[str] = (), trainings: Sequence[str] = ()) -> None:
        """Watch these, with Alertmanager where it is here."""
        write_stack(self.folder, self.settings, servers=servers, trainings=trainings)
        path = self.folder / "prometheus.yml"
        path.write_text(path.read_text().replace("127.0.0.1:9093", self.address("alertmanager")))

    def start(self, name: str) -> None:
        """Start one of both, as the compose file does; it is ready when this returns."""
        where = [f"--web.listen-address={self.address(name)}", "--log.level=warn"]
        if name == "prometheus":
            how = [
                f"--config.file={self.folder}/prometheus.yml",
                f"--storage.tsdb.path={self.folder}/data/prometheus",
                "--rules.alert.resend-delay=5s",
            ]
        else:
            how = [
                f"--config.file={self.folder}/alertmanager.yml",
                f"--storage.path={self.folder}/data/alertmanager",
                "--cluster.listen-address=",
            ]
        log = self.folder / f"{name}.log"
        with log.open("ab") as stream:
            self.running[name] = subprocess.Popen(
                [self.programs[name], *how, *where], stdout=stream, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + 60
        while not self._ready(name):
            assert self.running[name].poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)

    def stop(self, name: str) -> None:
        """End one of both."""
        process = self.running.pop(name)
        process.terminate()
        process.wait(30)

    def address(self, name: str) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.ports[name]}"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus answers to an instant query: samples with `metric` and `value`."""
        words = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://{self.address('prometheus')}/api/v1/query?{words}") as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def firing(self, alert: str) -> bool:
        """Whether Prometheus says that `alert` fires."""
        return bool(self.query(f'ALERTS{{alertname="{alert}",alertstate="firing"}}'))

    def _ready(self, name: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address(name)}/-/ready") as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False


@contextlib.contextmanager
def live_stack(folder: Path, **settings: Any) -> Iterator[LiveStack]:
    """A stack whose programs are ended with the block. Samples are taken each second."""
    stack = LiveStack(folder, Monitoring(interval_s=1, **settings))
    try:
        yield stack
    finally:
        for name in list(stack.running):
            stack.stop(name)


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
