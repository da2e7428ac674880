"""Load on an HTTP server: a closed loop, or an open loop with Poisson arrivals.

As a program (`python -m fulldeck.serving.load_generator`) it reads one JSON object from standard input and writes one:

    {"port", "requests": [base64 of complete HTTP/1.1 requests], "connections", "seconds", "warm_up",
     "rate": requests a second for an open loop, or null for a closed loop, "seed"}
    {"sent", "answered", "wrong": {status: n}, "seconds", "rate", "p50_ms", "p90_ms", "p99_ms", "max_ms",
     "refused_p99_ms"}

It is one loop over sockets with requests that were built before, so that it costs little beside a server
on the same cores. In an open loop latency counts from the planned arrival, also while all connections are
taken: a server that stalls cannot make its clients wait unseen (no coordinated omission).
"""

from __future__ import annotations

import base64
import json
import random
import select
import selectors
import socket
import sys
from collections import Counter, deque
from collections.abc import Sequence
from itertools import cycle
from time import perf_counter
from typing import Any

Exchange = tuple[float, float, int]
"""(start, end, status) of one request; status 0: it was never answered."""


class Connections:
    """`count` keep-alive connections to one port, opened again when the server has closed one."""

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()
        self.sockets: dict[int, socket.socket] = {}
        self._parts: dict[int, bytes] = {}
        self._asked: set[int] = set()
        for number in range(count):
            self._open(number)

    def send(self, number: int, request: bytes) -> None:
        """Send a request on connection `number`, which must wait for no answer."""
        self._asked.add(number)
        try:
            self.sockets[number].sendall(request)
        except ConnectionError:  # closed a moment ago, as too long idle
            self._reopen(number)
            self.sockets[number].sendall(request)

    def answers(self, timeout: float) -> list[tuple[int, int]]:
        """Wait up to `timeout` seconds; (connection, status) of every answer that is now complete.

        Status 0: the connection was closed instead.
        """
        if hasattr(self._selector, "fileno"):
            # epoll alone rounds its time-out up to whole milliseconds.
            select.select([self._selector.fileno()], [], [], timeout)
            timeout = 0.0
        done = []
        for key, _ in self._selector.select(timeout):
            number: int = key.data
            try:
                part = self.sockets[number].recv(1 << 18)
            except ConnectionError:
                part = b""
            if not part:
                self._reopen(number)
                if number in self._asked:
                    self._asked.discard(number)
                    done.append((number, 0))
                continue
            data = self._parts.pop(number, b"") + part
            head = data.find(b"\r\n\r\n")
            if head >= 0 and len(data) >= head + 4 + _length(data[:head]):
                self._asked.discard(number)
                done.append((number, int(data[9:12])))
            else:
                self._parts[number] = data
        return done

    def close(self) -> None:
        """Close all connections."""
        self._selector.close()
        for connection in self.sockets.values():
            connection.close()

    def _open(self, number: int) -> None:
        connection = socket.create_connection(("127.0.0.1", self._port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(60)
        self.sockets[number] = connection
        self._selector.register(connection, selectors.EVENT_READ, number)

    def _reopen(self, number: int) -> None:
        self._parts.pop(number, None)
        self._selector.unregister(self.sockets[number])
        self.sockets[number].close()
        self._open(number)


def _length(head: bytes) -> int:
    start = head.lower().find(b"content-length:")
    return int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0


def http_request(path: str, body: bytes, content_type: str = "application/json", **headers: str) -> bytes:
    """A complete POST; underscores in names of `headers` stand for hyphens."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {content_type}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def closed_loop(connections: Connections, requests: Sequence[bytes], seconds: float) -> list[Exchange]:
    """Every connection sends its next request as soon as it has an answer."""
    following = cycle(requests)
    started = {}
    for number in list(connections.sockets):
        started[number] = perf_counter()
        connections.send(number, next(following))
    results = []
    end = perf_counter() + seconds
    while (now := perf_counter()) < end:
        for number, status in connections.answers(end - now):
            now = perf_counter()
            results.append((started[number], now, status))
            started[number] = now
            connections.send(number, next(following))
    return results


def open_loop(
    connections: Connections, requests: Sequence[bytes], seconds: float, rate: float, seed: int
) -> list[Exchange]:
    """Requests at Poisson times, whatever the server does; a start is the planned one.

    What is not answered `seconds` after the last arrival has status 0 and counts as that late.
    """
    following = cycle(requests)
    randomness = random.Random(seed)
    begin = perf_counter() + 0.05
    arrivals: deque[float] = deque()
    moment = randomness.expovariate(rate)
    while moment < seconds:
        arrivals.append(begin + moment)
        moment += randomness.expovariate(rate)
    idle = deque(connections.sockets)
    started: dict[int, float] = {}
    results = []
    limit = begin + 2 * seconds
    while (arrivals or started) and (now := perf_counter()) < limit:
        while idle and arrivals and arrivals[0] <= now:
            number = idle.popleft()
            started[number] = arrivals.popleft()
            connections.send(number, next(following))
        wait = max(0.0, arrivals[0] - perf_counter()) if arrivals and idle else limit - now
        for number, status in connections.answers(wait):
            results.append((started.pop(number), perf_counter(), status))
            idle.append(number)
    late = [*started.values(), *arrivals]
    return results + [(moment, limit, 0) for moment in late]


def summary(results: Sequence[Exchange]) -> dict[str, Any]:
    """What is written of a trial. Latencies are those of answers with 200 and of requests never answered."""
    statuses = Counter(status for _, _, status in results)
    took = sorted(end - start for start, end, status in results if status in (0, 200))
    refused = sorted(end - start for start, end, status in results if status == 429)
    span = max(end for _, end, _ in results) - min(start for start, _, _ in results)
    return {
        "sent": len(results),
        "answered": statuses[200],
        "wrong": {str(status): count for status, count in statuses.items() if status != 200},
        "seconds": span,
        "rate": statuses[200] / span,
        **{
            f"{name}_ms": _at(took, share)
            for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
        },
        "refused_p99_ms": _at(refused, 0.99),
    }


def _at(ordered: Sequence[float], share: float) -> float | None:
    return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


def main() -> None:
    """Run the load that standard input describes."""
    wish: dict[str, Any] = json.load(sys.stdin)
    requests = [base64.b64decode(request) for request in wish["requests"]]
    connections = Connections(wish["port"], wish["connections"])
    if wish["warm_up"]:
        closed_loop(Connections(wish["port"], 4), requests, wish["warm_up"])
    if wish["rate"] is None:
        results = closed_loop(connections, requests, wish["seconds"])
    else:
        results = open_loop(connections, requests, wish["seconds"], wish["rate"], wish["seed"])
    json.dump(summary(results), sys.stdout)


if __name__ == "__main__":
    main()
