"""A server in a process of its own, for as long as a block lasts; and the load that one takes."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fulldeck.data import Array
from fulldeck.errors import RunFailed
from fulldeck.package import Package
from fulldeck.serving.load_generator import Connections, closed_loop, http_request, summary
from fulldeck.serving.protocol import NAMES, to_json

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome

START_SECONDS = 60
STOP_SECONDS = 15


@contextmanager
def server(package: Path) -> Iterator[tuple[str, int]]:
    """A server of `package` in a process of its own on a free loopback port: its address and process id."""
    command = [sys.executable, "-m", "fulldeck", "serve", str(package), "--port", "0", "--json"]
    # On loopback, for a few seconds, asked only by this process: a token would only be in the way.
    environment = {name: value for name, value in os.environ.items() if name != "FULLDECK_TOKEN"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield _address(process), process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _address(process: subprocess.Popen[str]) -> str:
    """What the server prints once it is ready: one JSON document on one line, with its `url`."""
    assert process.stdout is not None
    assert process.stderr is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        ready = selector.select(START_SECONDS)
    line = process.stdout.readline() if ready else ""
    if not line.strip():
        process.terminate()
        reason = process.stderr.read().strip().splitlines()
        raise RunFailed(f"the server did not start: {reason[-1] if reason else 'no word from it'}")
    said = json.loads(line)
    if "error" in said:
        raise RunFailed(f"the server did not start: {said['error']}")
    address: str = said["url"]
    return address


@contextmanager
def asked(outcome: Outcome, items: int, *, rows: int = 1) -> Iterator[tuple[int, list[bytes]]]:
    """A run's package on a server: its port, and requests for `items` of its examples, `rows` in each."""
    package = outcome.service.package
    assert package is not None, "who measures a server has a package in both arms"
    requests = inferences(Package.open(package), outcome.candidate.example(items), rows=rows)
    with server(package) as (url, _):
        yield port_of(url), requests


def inferences(package: Package, inputs: Mapping[str, Array], *, rows: int = 1) -> list[bytes]:
    """HTTP requests for inferences on `inputs`, `rows` of them in each, as JSON."""
    count = len(next(iter(inputs.values())))
    return [
        http_request(
            f"/v2/models/{package.service.model}/infer",
            to_json(
                {"inputs": [_tensor(name, array[start : start + rows]) for name, array in inputs.items()]}
            ),
        )
        for start in range(0, count - rows + 1, rows)
    ]


def most_per_second(port: int, requests: Sequence[bytes], *, clients: int, seconds: float) -> float:
    """Requests a second that a server answers to so many clients, each of which asks again at once."""
    connections = Connections(port, clients)
    try:
        closed_loop(connections, requests, seconds / 4)
    finally:
        connections.close()
    connections = Connections(port, clients)
    try:
        return float(summary(closed_loop(connections, requests, seconds))["rate"])
    finally:
        connections.close()


def port_of(url: str) -> int:
    """The port in a server's address."""
    return urlsplit(url).port or 80


def _tensor(name: str, array: Array) -> dict[str, object]:
    return {
        "name": name,
        "datatype": NAMES[array.dtype],
        "shape": array.shape,
        "data": array.ravel().tolist(),
    }
