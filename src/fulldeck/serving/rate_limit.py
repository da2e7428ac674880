"""How many requests a second one client may send: a token bucket for each.

Reference: Turner 1986, "New directions in communications", IEEE Communications Magazine 24(10).
"""

from __future__ import annotations

from collections import OrderedDict
from math import ceil
from time import monotonic

from fulldeck.serving.http import Refusal

CLIENTS = 10_000
"""Clients that are remembered; the one that was seen longest ago is forgotten first."""


class OverRate(Refusal):
    """A client asked more often than it may: its own fault, so that it counts apart from want of room."""

    route = "rate_limited"


class RateLimit:
    """`burst` requests at once, and `rate` a second in the long run, for each client."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Client to the tokens that it had, and when."""

    def admit(self, client: str, now: float | None = None) -> None:
        """Count one request of `client`. Raises Refusal (429) if it has sent too many."""
        now = monotonic() if now is None else now
        had, then = self._clients.pop(client, (float(self._burst), now))
        tokens = min(self._burst, had + self._rate * (now - then))
        if tokens >= 1:
            self._remember(client, tokens - 1, now)
            return
        self._remember(client, tokens, now)
        after = ("retry-after", str(max(1, ceil((1 - tokens) / self._rate))))
        raise OverRate(429, f"{client} may send {self._rate:g} requests a second; slow down", after)

    def _remember(self, client: str, tokens: float, now: float) -> None:
        self._clients[client] = (tokens, now)
        if len(self._clients) > CLIENTS:
            self._clients.popitem(last=False)
