"""Seconds from the moment that load drops until replicas go, and from its return until they come.

    python benchmarks/scaling_delay.py [--turns 5] [--interval 1]

A server of two replicas with real clients. Once it decides from its own samples; once, where Prometheus and
Alertmanager are installed, only while their alert fires (`needs_alert`), which takes the whole chain. The least that
three samples allow is two intervals.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe, write_result

from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.instructions.deployment.model_packaging import package_model
from fulldeck.monitoring.settings import Monitoring
from fulldeck.monitoring.stack import write_stack
from fulldeck.networks import build
from fulldeck.service import Serving

SHAPE = (3, 32, 32)
CLIENTS = 8
LIMIT = 120.0
ALERTMANAGER = "prometheus-alertmanager", "alertmanager"


class Load:
    """Clients of which the first ones ask, one request after the other; a single one now and then."""

    def __init__(self, port: int, token: str) -> None:
        self.port, self.active, self.failed, self.answered = port, 0, 0, 0
        self.headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        self.body = json.dumps({"input": np.zeros(SHAPE).tolist()})
        self.ended = False
        self.threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        """Let the clients finish."""
        self.ended = True
        for thread in self.threads:
            thread.join()

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.ended:
            if number >= self.active:
                time.sleep(0.02)
                continue
            connection.request("POST", "/predict", self.body, self.headers)
            answer = connection.getresponse()
            answer.read()
            self.answered += 1
            self.failed += answer.status != 200
            if self.active == 1:
                time.sleep(0.5)

    def replicas(self) -> int:
        """Engine processes that there should be, as /metrics says."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/metrics", headers=self.headers)
        page = connection.getresponse().read().decode()
        (line,) = (line for line in page.splitlines() if line.startswith("fulldeck_replicas_wanted{"))
        return int(float(line.rsplit(" ", 1)[1]))

    def until(self, replicas: int) -> float:
        """Seconds until there should be so many."""
        began = time.monotonic()
        while self.replicas() != replicas:
            if time.monotonic() - began > LIMIT:
                raise SystemExit(f"no {replicas} replicas within {LIMIT:g} s")
            time.sleep(0.02)
        return time.monotonic() - began


def package(folder: Path, interval: int, needs_alert: bool) -> Path:
    """A convolutional network of some milliseconds, two replicas of one thread each."""
    torch.manual_seed(0)
    network = build(
        {"network": "residual_net", "arguments": {"channels": 3, "outputs": 10, "widths": [32, 64]}}
    )
    example = {"input": np.zeros((2, *SHAPE), np.float32)}
    scaling = {
        "interval_s": float(interval),
        "cooldown_s": 0.0,
        "max_replicas": 2,
        "needs_alert": needs_alert,
    }
    return package_model(
        folder,
        [network.eval()],
        TensorEncoder(SHAPE),
        example,
        name="delay",
        serving=Serving(workers=2, threads=1, max_batch=1),
        carried={"scaling": scaling},
    )


@contextlib.contextmanager
def started(*command: str, ready: str | None = None, **environment: str) -> Iterator[str]:
    """A program for the length of a block; the first line that it writes, where it is waited for."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE if ready else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | environment,
    )
    try:
        yield process.stdout.readline() if process.stdout is not None else ""
    finally:
        process.terminate()
        process.wait(30)


def measure(interval: int, turns: int, chain: bool) -> dict[str, Any]:
    """Delays of some turns of load."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        served = package(folder / "package", interval, chain)
        stacked = write_stack(folder / "monitoring", Monitoring(interval_s=interval))
        token = (stacked / "token").read_text()
        serve = (sys.executable, "-m", "fulldeck", "serve", str(served), "--port", "0", "--json")
        said = stack.enter_context(started(*serve, ready="url", FULLDECK_TOKEN=token))
        port = int(json.loads(said)["url"].rsplit(":", 1)[1])
        if chain:
            write_stack(stacked, Monitoring(interval_s=interval), servers=[f"127.0.0.1:{port}"])
            for command in programs(stacked):
                stack.enter_context(started(*command))
        load = Load(port, token)
        stack.callback(load.end)
        down, up = [], []
        for _ in range(turns):
            load.active = CLIENTS
            up.append(load.until(2))
            time.sleep(4 * interval)
            load.active = 1
            down.append(load.until(1))
        load.end()
        return {
            "interval_s": interval,
            "scale_in_s": down,
            "scale_out_s": up[1:],
            "median_scale_in_s": statistics.median(down),
            "median_scale_out_s": statistics.median(up[1:]),
            "requests": load.answered,
            "failed": load.failed,
        }


def programs(folder: Path) -> list[list[str]]:
    """How Prometheus and Alertmanager are started from `folder`, on free ports."""
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ports.append(listener.getsockname()[1])
    config = folder / "prometheus.yml"
    config.write_text(config.read_text().replace("127.0.0.1:9093", f"127.0.0.1:{ports[1]}"))
    return [
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder}/data/prometheus",
            f"--web.listen-address=127.0.0.1:{ports[0]}",
            "--rules.alert.resend-delay=5s",
        ],
        [
            next(name for name in ALERTMANAGER if shutil.which(name)),
            f"--config.file={folder}/alertmanager.yml",
            f"--storage.path={folder}/data/alertmanager",
            f"--web.listen-address=127.0.0.1:{ports[1]}",
            "--cluster.listen-address=",
        ],
    ]


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--interval", type=int, default=1)
    given = parser.parse_args()
    found = {"own samples": measure(given.interval, given.turns, chain=False)}
    if shutil.which("prometheus") and any(map(shutil.which, ALERTMANAGER)):
        found["the chain"] = measure(given.interval, given.turns, chain=True)
    else:
        print("the chain was not measured: make test-services installs Prometheus and Alertmanager")
    for name, result in found.items():
        print(
            f"{name}: in after {result['median_scale_in_s']:.1f} s, out after "
            f"{result['median_scale_out_s']:.1f} s (medians of {given.turns} turns, samples "
            f"{given.interval} s apart); {result['failed']} of {result['requests']} requests failed"
        )
    write_result("scaling_delay", {"machine": describe(), "turns": given.turns, **found})


if __name__ == "__main__":
    main()
