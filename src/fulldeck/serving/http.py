"""What a request and an answer are, and all connections of one listening socket with the limits that they share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fulldeck.serving.connection import Connection

LINGER_SECONDS = 2.0
"""Time in which a refused body is read and thrown away, so that the client sees the answer."""
SWEEP_SECONDS = 0.25
"""How often expired connections are looked for."""


@dataclass(slots=True, eq=False)
class Request:
    """A request; `headers` have lower-case names, `path` has no query, times are those of `monotonic`."""

    method: str = ""
    target: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    path: str = ""
    client: str = ""
    """The address that it came from."""
    began: float = 0.0
    """When its head was complete."""
    deadline: float = inf
    keep_alive: bool = True
    route: Any = None
    """What the application has found to answer it."""
    refusal: Refusal | None = None
    """Why not, where the application refused it before its body, which is read all the same."""

    def header(self, name: bytes) -> str:
        """A header's value, or the empty string."""
        return self.headers.get(name, b"").decode("latin-1")


@dataclass(slots=True, eq=False)
class Response:
    """An answer with a body, or with a `stream` of parts that ends when the client or the server goes."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    stream: AsyncIterator[bytes] | None = None


Respond = Callable[[Response], None]


class Refusal(Exception):
    """A request that is answered with `status` and `{"error": message}`."""

    route = "refused"
    """What it counts under in the metrics, where its body was not read."""

    def __init__(self, status: int, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.response = Response(status, json.dumps({"error": message}).encode(), headers=headers)


class Application(Protocol):
    """What answers requests."""

    def admit(self, request: Request) -> None:
        """Look at a head before its body is read. Raises Refusal."""
        ...

    def answer(self, request: Request, respond: Respond) -> Callable[[], object] | None:
        """Answer a complete request by calling `respond` once, now or later, in any case.

        What is returned gives the request up: nobody waits for its answer any more.
        """
        ...

    def refused(self, refusal: Refusal) -> None:
        """A request was answered before it was complete."""
        ...


class HttpServer:
    """All connections of one listening socket, and the limits that they share."""

    def __init__(self, app: Application, *, max_body: int, deadline: float, max_connections: int) -> None:
        self.app = app
        self.max_body = max_body
        self.deadline = deadline
        self.max_connections = max_connections
        self.connections: set[Connection] = set()
        self.held = 0
        """Bytes of all request bodies in memory."""
        self.draining = False
        self._heads: dict[tuple[int, str], bytes] = {}
        self._date = formatdate(usegmt=True)

    def connection(self) -> Connection:
        """A protocol for a new connection."""
        from fulldeck.serving.connection import Connection

        return Connection(self)

    def head(self, response: Response, *, ends: bool) -> bytes:
        """The head of an answer, up to and with the empty line; `ends`: the connection closes after it."""
        key = (response.status, response.content_type)
        start = self._heads.get(key)
        if start is None:
            start = self._heads[key] = (
                f"HTTP/1.1 {response.status} {_REASONS[response.status]}\r\ndate: {self._date}\r\n"
                f"content-type: {response.content_type}\r\n"
            ).encode("latin-1")
        if response.stream is None:
            start += b"content-length: %d\r\n" % len(response.body)
        for name, value in response.headers:
            start += f"{name}: {value}\r\n".encode("latin-1")
        return start + (b"connection: close\r\n\r\n" if ends else b"\r\n")

    async def sweep(self) -> None:
        """Close what has expired, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            if (date := formatdate(usegmt=True)) != self._date:
                self._date, self._heads = date, {}
            now = monotonic()
            for connection in [one for one in self.connections if one.expires < now]:
                connection.expire()

    async def drain(self) -> None:
        """Close idle connections, let the others finish their request; all are gone after the deadline."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()
        limit = monotonic() + self.deadline + LINGER_SECONDS
        while self.connections and monotonic() < limit:
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()


_REASONS = {status.value: status.phrase for status in HTTPStatus}
