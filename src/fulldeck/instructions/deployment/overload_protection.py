"""Turn requests away while there is still time to answer the others, and tell them when to come again.

A server that takes everything answers nobody in time once more comes than it can do. So a request that would have
to wait too long for the engine, as it is expected from what waits and from what calls take, is answered 429 with
Retry-After at once, before its body is read; and a client that asks more often than it may is held to its rate.
What is let in is answered about as fast as at a usual load.

The server has the bounds that need no measuring without this: a queue with an end, a deadline for each request, a
largest body, slow clients cut off, a token off loopback (see `model_serving_framework`).

Use when: more requests may come than the server can answer, or some clients ask too much.
Avoid when: every request must be answered however late, as in a job over night; give it a long queue instead.
Reference: Welsh and Culler 2003, "Adaptive overload control for busy Internet servers", USITS; Dean and Barroso
2013, "The tail at scale".

Example:
    >>> async def app(scope, receive, send):
    ...     print("answered")
    >>> limited = limit_asgi(app, at_once=1)  # any ASGI application, such as a FastAPI one
    >>> import asyncio
    >>> asyncio.run(limited({"type": "http", "client": ("10.0.0.1", 9)}, None, None))
    answered
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from fulldeck.instruction import GOALS, Evidence, Instruction, instruction
from fulldeck.service import LIMITS, Limits, Service
from fulldeck.serving.http import Refusal, Response
from fulldeck.serving.load_generator import Connections, open_loop, summary
from fulldeck.serving.process import asked, most_per_second
from fulldeck.serving.rate_limit import RateLimit

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Message, Receive, Send], Awaitable[None]]

OVERLOAD, ROWS, CLIENTS, SECONDS = 10.0, 64, 512, 2.0
"""How the evidence asks too much: times what can be answered, with so many rows in each request."""


@instruction(
    46,
    stage="deployment",
    goals=GOALS,
    touches={"service"},
    evidence=Evidence(
        workload="digits",
        metric="overloaded_p99_ms",
        expect="<= 0.7x",
        beside=("onnx_export", "model_serving_framework", "model_packaging"),
    ),
)
class OverloadProtection(Instruction, Limits):
    """Its parameters are the settings of `fulldeck.service.Limits`."""

    def prove(self, outcome: Outcome) -> float:
        """overloaded_p99_ms: of the requests that are answered while ten times too many come."""
        with asked(outcome, 4 * ROWS, rows=ROWS) as (port, requests):
            most = most_per_second(port, requests, clients=4, seconds=SECONDS)
            connections = Connections(port, CLIENTS)
            seen = summary(open_loop(connections, requests, SECONDS, OVERLOAD * most, seed=0))
            connections.close()
        return float(seen["p99_ms"])

    def configure(self, service: Service) -> Service:
        settings = {name: getattr(self, name) for name in Limits.model_fields}
        return service.carrying(LIMITS, Limits(**settings).model_dump(mode="json"))


def limit_asgi(app: Asgi, *, at_once: int = 64, rate_per_s: float | None = None, burst: int = 20) -> Asgi:
    """`app` (ASGI) behind limits: what is over them is answered 429 with Retry-After.

    `at_once` requests are worked on at a time, `rate_per_s` is what one client address may send in the long run,
    after `burst` requests at once.
    """
    rate = None if rate_per_s is None else RateLimit(rate_per_s, burst)
    busy = 0

    async def limited(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal busy
        if scope["type"] != "http":
            return await app(scope, receive, send)
        try:
            if rate is not None:
                rate.admit(str((scope.get("client") or ("",))[0]))
            if busy >= at_once:
                raise Refusal(429, "too many requests at once; try again", ("retry-after", "1"))
        except Refusal as refusal:
            return await _send(refusal.response, send)
        busy += 1
        try:
            await app(scope, receive, send)
        finally:
            busy -= 1

    return limited


async def _send(response: Response, send: Send) -> None:
    headers = [("content-type", response.content_type), *response.headers]
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": response.status, "headers": encoded})
    await send({"type": "http.response.body", "body": response.body})
