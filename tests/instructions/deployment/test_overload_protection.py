import asyncio
from pathlib import Path

import pytest

from fulldeck.errors import BadInput
from fulldeck.instructions.deployment.overload_protection import OverloadProtection, limit_asgi
from fulldeck.service import Limits, Service


def test_the_package_says_whom_to_turn_away(quantised):
    made = OverloadProtection(wait_ms=20, rate_per_s=5).configure(Service(quantised, "digits", Path()))
    assert Limits.of(made.carried) == Limits(wait_ms=20, rate_per_s=5)
    with pytest.raises(BadInput, match=r"overload_protection.rate_per_s must be greater than 0"):
        OverloadProtection(rate_per_s=0.0)


class App:
    """An ASGI application that answers when it is let go, and what was sent for each request."""

    def __init__(self, **limits):
        self.go = asyncio.Event()
        self.limited = limit_asgi(self, **limits)

    async def __call__(self, scope, receive, send):
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(self, client="10.0.0.1"):
        sent = []

        async def send(message):
            sent.append(message)

        await self.limited({"type": "http", "client": (client, 1)}, None, send)
        return sent[0]["status"], dict(sent[0]["headers"]).get(b"retry-after")


def test_an_asgi_application_works_on_so_many_requests_at_once():
    async def scenario():
        app = App(at_once=2)
        working = [asyncio.ensure_future(app.ask()) for _ in range(2)]
        await asyncio.sleep(0)
        assert await app.ask() == (429, b"1")
        app.go.set()
        assert [one[0] for one in await asyncio.gather(*working)] == [200, 200]
        assert (await app.ask())[0] == 200

    asyncio.run(scenario())


def test_an_asgi_application_holds_each_client_to_its_rate():
    async def scenario():
        app = App(rate_per_s=0.1, burst=2)
        app.go.set()
        assert [(await app.ask())[0] for _ in range(3)] == [200, 200, 429]
        assert (await app.ask())[1] in (b"9", b"10")
        assert (await app.ask("10.0.0.2"))[0] == 200

    asyncio.run(scenario())
