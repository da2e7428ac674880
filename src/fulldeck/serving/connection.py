"""One client's HTTP/1.1 on asyncio: bounded, time-limited, and nothing but what an inference server needs.

The parser is llhttp (of Node.js), by httptools. Every limit of a connection is here: size of head and body, one
deadline for a whole request including its body, time for a head, idle time, bytes held.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from math import inf
from time import monotonic
from typing import cast
from urllib.parse import unquote

import httptools

from fulldeck.serving.http import LINGER_SECONDS, HttpServer, Refusal, Request, Response

HEAD_BYTES = 64 * 1024
"""Largest request line and headers, in bytes."""
READ_BYTES = 512 * 1024
"""What a message may have beside its body: head, framing of chunks, trailers, and the last read."""
HEAD_SECONDS = 4.0
"""Time for a request's head, from its first byte or from the connection's start."""
IDLE_SECONDS = 60.0
"""Time that a connection may stay open between requests, or with an answer that is not read."""
HELD_BODIES = 16
"""Bytes of all request bodies in memory, in multiples of the largest body."""
SMALL_BODY = 1024 * 1024
"""Largest body that is read and thrown away when its request is refused for now, to keep the connection."""
FOR_NOW = {429, 503}
"""Statuses after which the client is to try again."""


class Connection(asyncio.Protocol):
    """Requests are read one after another and answered in that order."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._client = ""
        self._request: Request | None = None
        self._chunks: list[bytes] = []
        self._in_head = False
        self._bytes = 0
        self._body_bytes = 0
        self._held = 0
        self._waiting: deque[Request | Response] = deque()
        self._current: Request | None = None
        self._give_up: Callable[[], object] | None = None
        self._stream: asyncio.Task[None] | None = None
        self._pumping = False
        self._paused = False
        self._deaf = False
        self._stalled = False
        self.expires = inf

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if len(self._server.connections) >= self._server.max_connections or self._server.draining:
            self._transport.abort()
            return
        name = transport.get_extra_info("peername")
        self._client = name[0] if isinstance(name, tuple) else ""
        self._server.connections.add(self)
        self.expires = monotonic() + HEAD_SECONDS

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        self._server.held -= self._held
        self._held = 0
        self._deaf = True
        self._waiting.clear()
        self._current = None
        if self._give_up is not None:
            self._give_up()
        if self._stream is not None:
            self._stream.cancel()

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
        self._pump()

    # What the parser calls; an exception here would be lost in it.

    def on_message_begin(self) -> None:
        self._request = Request(client=self._client)
        self._in_head = True
        if self._current is None:
            self.expires = monotonic() + HEAD_SECONDS

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
        request.path = request.target.partition(b"?")[0].decode("latin-1")
        if "%" in request.path:
            request.path = unquote(request.path)
        request.method = self._parser.get_method().decode("latin-1")
        request.keep_alive = self._parser.should_keep_alive()
        request.began = monotonic()
        request.deadline = request.began + self._server.deadline
        self._body_bytes = 0
        length = int(request.headers.get(b"content-length", b"0"))
        try:
            if length > self._server.max_body:
                raise self._too_large()
            self._server.app.admit(request)
        except Refusal as refusal:
            chunked = b"transfer-encoding" in request.headers
            if refusal.response.status in FOR_NOW and length <= SMALL_BODY and not chunked:
                request.refusal = refusal
            else:
                self._refuse(refusal)
                return
        if self._current is None:
            self.expires = request.deadline
            if request.headers.get(b"expect", b"").lower() == b"100-continue":
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        if self._deaf or self._request is None or self._request.refusal is not None:
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
        if self._current is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._pump()

    # Answers, one after the other.

    def _pump(self) -> None:
        """Answer what waits; not by recursion, since an answer may come at once and another may wait."""
        if self._pumping:
            return
        self._pumping = True
        while self._current is None and not self._stalled and self._waiting:
            item = self._waiting.popleft()
            if isinstance(item, Response):
                self._write(item, keep_alive=False)
            else:
                self._begin(item)
        self._pumping = False
        if self._paused and self._current is None and not self._waiting:
            self._paused = False
            self._transport.resume_reading()

    def _begin(self, request: Request) -> None:
        self.expires = inf
        self._current = request
        if request.refusal is not None:
            self._server.app.refused(request.refusal)
            self._respond(request.refusal.response)
            return
        give_up = self._server.app.answer(request, self._respond)
        if self._current is request:
            self._give_up = give_up

    def _respond(self, response: Response) -> None:
        request = self._current
        self._give_up = None
        if request is None:
            return  # the client has gone
        if response.stream is not None and request.method != "HEAD":
            self._stream = self._loop.create_task(self._send(response, response.stream))
            return
        self._current = None
        self._held -= len(request.body)
        self._server.held -= len(request.body)
        self._write(response, keep_alive=request.keep_alive, head_only=request.method == "HEAD")
        if self._waiting or self._paused:
            self._pump()

    async def _send(self, response: Response, parts: AsyncIterator[bytes]) -> None:
        """A stream, part by part; a client that does not read misses parts, and is cut off in the end."""
        self._transport.write(self._server.head(response, ends=True))
        self.expires = monotonic() + IDLE_SECONDS
        async for part in parts:
            if self._server.draining:
                break
            if not self._stalled:
                self._transport.write(part)
                self.expires = monotonic() + IDLE_SECONDS
        self._stream = self._current = None
        self._close()

    def _write(self, response: Response, *, keep_alive: bool, head_only: bool = False) -> None:
        ends = not keep_alive or self._server.draining
        head = self._server.head(response, ends=ends)
        self._transport.write(head if head_only else head + response.body)
        if not ends:
            self.expires = self._patience()
            return
        self._waiting.clear()
        if self._deaf:
            # Closing with unread bytes would reset the connection and lose the answer.
            self.expires = monotonic() + LINGER_SECONDS
            self._transport.write_eof()
        else:
            self._close()

    def _patience(self) -> float:
        """Until when the client may take its time after an answer: the next request may have begun behind this one."""
        if self._request is None:
            return monotonic() + IDLE_SECONDS
        return monotonic() + HEAD_SECONDS if self._in_head else self._request.deadline

    def _refuse(self, refusal: Refusal) -> None:
        if self._deaf:
            return
        self._deaf = True
        freed = sum(map(len, self._chunks))
        self._held -= freed
        self._server.held -= freed
        self._forget_message()
        self._server.app.refused(refusal)
        self._waiting.append(refusal.response)
        self._pump()

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
        if self._current is None and self._request is None and not self._waiting:
            self._close()

    def abort(self) -> None:
        """Cut the connection off."""
        self._transport.abort()

    def _close(self) -> None:
        self._deaf = True
        self.expires = monotonic() + IDLE_SECONDS
        self._transport.close()
