"""HTTP/1.1 on asyncio: bounded, time-limited, and nothing but what an inference server needs.

The parser is llhttp (of Node.js), by httptools. Every limit is here: size of head and body, one deadline
for a whole request including its body, time for a head, idle time, number of connections, bytes held.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from math import inf
from typing import Any, Protocol
from urllib.parse import unquote

import httptools

HEAD_BYTES = 64 * 1024
"""Largest request line and headers, in bytes."""
READ_BYTES = 512 * 1024
"""What a message may have beside its body: head, framing of chunks, trailers, and the last read."""
HEAD_SECONDS = 4.0
"""Time for a request's head, from its first byte or from the connection's start."""
IDLE_SECONDS = 60.0
"""Time that a connection may stay open between requests, or with an answer that is not read."""
LINGER_SECONDS = 2.0
"""Time in which a refused body is read and thrown away, so that the client sees the answer."""
HELD_BODIES = 16
"""Bytes of all request bodies in memory, in multiples of the largest body."""
SWEEP_SECONDS = 0.25
"""How often expired connections are looked for."""


@dataclass(slots=True, eq=False)
class Request:
    """A request; `headers` have lower-case names, `path` has no query, `deadline` is on the loop's clock."""

    method: str = ""
    target: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    path: str = ""
    deadline: float = inf
    keep_alive: bool = True

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


class Refusal(Exception):
    """A request that is answered with `status` and `{"error": message}`."""

    def __init__(self, status: int, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.response = Response(status, json.dumps({"error": message}).encode(), headers=headers)


class Application(Protocol):
    """What answers requests."""

    def admit(self, request: Request) -> None:
        """Look at a head before its body is read. Raises Refusal."""
        ...

    def answer(self, request: Request) -> Coroutine[Any, Any, Response]:
        """Answer a complete request; never raises but when cancelled."""
        ...

    def refused(self, status: int) -> None:
        """A request was answered with `status` before it was complete."""
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
        self.draining = False
        self.date = formatdate(usegmt=True)

    def connection(self) -> Connection:
        """A protocol for a new connection."""
        return Connection(self)

    async def sweep(self) -> None:
        """Close what has expired, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.date = formatdate(usegmt=True)
            now = asyncio.get_running_loop().time()
            for connection in [one for one in self.connections if one.expires < now]:
                connection.expire()

    async def drain(self) -> None:
        """Close idle connections, let the others finish their request; all are gone after the deadline."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()
        limit = asyncio.get_running_loop().time() + self.deadline + LINGER_SECONDS
        while self.connections and asyncio.get_running_loop().time() < limit:
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()


class Connection(asyncio.Protocol):
    """One client: requests are read one after another and answered in that order."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._request: Request | None = None
        self._chunks: list[bytes] = []
        self._in_head = False
        self._bytes = 0
        self._body_bytes = 0
        self._held = 0
        self._waiting: deque[Request | Response] = deque()
        self._task: asyncio.Task[None] | None = None
        self._deaf = False
        self._stalled = False
        self.expires = inf

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if len(self._server.connections) >= self._server.max_connections or self._server.draining:
            transport.abort()
            return
        self._server.connections.add(self)
        self.expires = self._loop.time() + HEAD_SECONDS

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        self._server.held -= self._held
        self._held = 0
        self._deaf = True
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(Refusal(400, "this server speaks plain HTTP/1.1 and upgrades to nothing else"))
        except httptools.HttpParserError as error:
            self._refuse(Refusal(400, f"malformed HTTP request: {error}"))
        # The parser itself collects headers and trailers without a limit.
        if self._in_head and self._bytes > HEAD_BYTES:
            self._refuse(Refusal(431, f"the request's head is over {HEAD_BYTES} bytes"))
        elif self._bytes > self._server.max_body + READ_BYTES:
            self._refuse(self._too_large())

    def pause_writing(self) -> None:
        self._stalled = True

    def resume_writing(self) -> None:
        self._stalled = False
        self._next()

    # What the parser calls; an exception here would be lost in it.

    def on_message_begin(self) -> None:
        self._request = Request()
        self._in_head = True
        if self._task is None:
            self.expires = self._loop.time() + HEAD_SECONDS

    def on_url(self, part: bytes) -> None:
        if self._request is not None:
            self._request.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._request is not None and self._in_head:
            self._request.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        request = self._request
        if request is None or self._deaf:
            return
        self._in_head = False
        request.path = unquote(request.target.partition(b"?")[0].decode("latin-1"))
        request.method = self._parser.get_method().decode("latin-1")
        request.keep_alive = self._parser.should_keep_alive()
        request.deadline = self._loop.time() + self._server.deadline
        self._body_bytes = 0
        try:
            self._server.app.admit(request)
            if int(request.headers.get(b"content-length", b"0")) > self._server.max_body:
                raise self._too_large()
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if self._task is None:
            self.expires = request.deadline
            if request.headers.get(b"expect", b"").lower() == b"100-continue":
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        if self._deaf:
            return
        self._body_bytes += len(part)
        if self._body_bytes > self._server.max_body:
            self._refuse(self._too_large())
        elif self._server.held + len(part) > HELD_BODIES * self._server.max_body:
            self._refuse(Refusal(429, "too many large requests at once; try again", ("retry-after", "1")))
        else:
            self._chunks.append(part)
            self._held += len(part)
            self._server.held += len(part)

    def on_message_complete(self) -> None:
        request = self._request
        if request is None or self._deaf:
            return
        request.body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._forget_message()
        self._waiting.append(request)
        if self._task is not None:
            self._transport.pause_reading()
        self._next()

    # Answers, one after the other.

    def _next(self) -> None:
        if self._task is not None or self._stalled or not self._waiting:
            return
        item = self._waiting.popleft()
        if isinstance(item, Response):
            self._write(item, keep_alive=False)
            return
        self.expires = inf
        self._task = self._loop.create_task(self._answer(item))

    async def _answer(self, request: Request) -> None:
        response = await self._server.app.answer(request)
        if response.stream is not None and request.method != "HEAD":
            await self._send(response, response.stream)
            return
        self._task = None
        self._held -= len(request.body)
        self._server.held -= len(request.body)
        self._write(response, keep_alive=request.keep_alive, head_only=request.method == "HEAD")
        if not self._waiting:
            self._transport.resume_reading()
        self._next()

    async def _send(self, response: Response, parts: AsyncIterator[bytes]) -> None:
        """A stream, part by part; a client that does not read misses parts, and is cut off in the end."""
        self._transport.write(self._head(response, ends=True))
        self.expires = self._loop.time() + IDLE_SECONDS
        async for part in parts:
            if self._server.draining:
                break
            if not self._stalled:
                self._transport.write(part)
                self.expires = self._loop.time() + IDLE_SECONDS
        self._task = None
        self._close()

    def _head(self, response: Response, *, ends: bool) -> bytes:
        length = "" if response.stream is not None else f"content-length: {len(response.body)}\r\n"
        return (
            f"HTTP/1.1 {response.status} {_REASONS[response.status]}\r\ndate: {self._server.date}\r\n"
            f"content-type: {response.content_type}\r\n{length}"
            + "".join(f"{name}: {value}\r\n" for name, value in response.headers)
            + ("connection: close\r\n\r\n" if ends else "\r\n")
        ).encode("latin-1")

    def _write(self, response: Response, *, keep_alive: bool, head_only: bool = False) -> None:
        ends = not keep_alive or self._server.draining
        head = self._head(response, ends=ends)
        self._transport.write(head if head_only else head + response.body)
        if not ends:
            self.expires = self._loop.time() + IDLE_SECONDS
            return
        self._waiting.clear()
        if self._deaf:
            # Closing with unread bytes would reset the connection and lose the answer.
            self.expires = self._loop.time() + LINGER_SECONDS
            self._transport.write_eof()
        else:
            self._close()

    def _refuse(self, refusal: Refusal) -> None:
        if self._deaf:
            return
        self._deaf = True
        freed = sum(map(len, self._chunks))
        self._held -= freed
        self._server.held -= freed
        self._forget_message()
        self._server.app.refused(refusal.response.status)
        self._waiting.append(refusal.response)
        self._next()

    def _forget_message(self) -> None:
        self._request, self._chunks, self._in_head, self._bytes = None, [], False, 0

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is over {self._server.max_body} bytes")

    # Ends.

    def expire(self) -> None:
        """Answer 408 to a body that came too slowly; cut off everything else."""
        if self._request is not None and not self._in_head and not self._deaf:
            self._refuse(Refusal(408, "the request's body did not arrive in time"))
        else:
            self.abort()

    def drain(self) -> None:
        """Close now if nothing is being received or answered."""
        if self._task is None and self._request is None and not self._waiting:
            self._close()

    def abort(self) -> None:
        """Cut the connection off."""
        self._transport.abort()

    def _close(self) -> None:
        self._deaf = True
        self.expires = self._loop.time() + IDLE_SECONDS
        self._transport.close()


_REASONS = {status.value: status.phrase for status in HTTPStatus}
