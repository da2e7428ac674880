"""The load of all servers of a model together, as Prometheus has seen it; what it has not seen is not known."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException

from fulldeck.errors import BadInput, RunFailed
from fulldeck.monitoring.scaling import JITTER, Load

TIMEOUT = 10.0
"""Seconds in which Prometheus answers."""
RATED = 2.5
"""Intervals that a rate is taken over: two samples are in it, though one comes late."""


@dataclass(frozen=True)
class PrometheusLoad:
    """`url` as `http://host:port`, the name of the `model`, and how often its servers are scraped."""

    url: str
    model: str
    interval_s: float

    def read(self, wanted: int, now: float) -> Load:
        """The load at `now`, in seconds since 1970, of servers of which there should be `wanted`.

        A server counts if it was scraped within the last interval and its engines are ready. Utilisation is not known
        unless every device of every server tells it. Raises RunFailed if Prometheus does not answer, BadInput if
        something else does.
        """
        fresh, rated = (f"{1000 * self.interval_s * times:.0f}ms" for times in (JITTER, RATED))
        model = '{model="' + self.model.replace("\\", r"\\").replace('"', r"\"") + '"}'
        ask = self._asking(now)

        def last(name: str) -> str:
            return f"last_over_time({name}{model}[{fresh}])"

        servers = ask(f"count({last('fulldeck_replicas_ready')} > 0)") or 0
        told = ask(f"count({last('fulldeck_utilisation_ratio')})")
        devices = ask(f"sum({last('fulldeck_devices')})")
        engines = ask(f"sum({last('fulldeck_replicas_ready')})")
        worked = ask(f"sum(rate(fulldeck_engine_busy_seconds_total{model}[{rated}]))")
        waited = ask(f"sum(rate(fulldeck_queue_wait_seconds_total{model}[{rated}]))")
        known = told is not None and told == devices and servers == wanted
        return Load(
            now,
            ask(f"max({last('fulldeck_utilisation_ratio')})") if known else None,
            None if worked is None or not engines or waited is None else min(1.0, worked / engines),
            waited or 0.0,
            int(servers),
            servers == wanted,
        )

    def _asking(self, now: float) -> Callable[[str], float | None]:
        def ask(expression: str) -> float | None:
            words = urllib.parse.urlencode({"query": expression, "time": f"{now:.3f}"})
            try:
                with urllib.request.urlopen(
                    f"{self.url.rstrip('/')}/api/v1/query?{words}", timeout=TIMEOUT
                ) as answer:
                    found = json.load(answer)["data"]["result"]
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise BadInput(f"{self.url} does not answer as Prometheus does: {error}") from None
                # It starts, or has too much to do.
                raise RunFailed(f"Prometheus at {self.url} does not answer now: {error}") from None
            except (KeyError, TypeError, ValueError) as error:
                raise BadInput(f"{self.url} does not answer as Prometheus does: {error}") from None
            except (OSError, HTTPException) as error:
                raise RunFailed(f"Prometheus at {self.url} does not answer: {error}") from None
            return float(found[0]["value"][1]) if found else None

        return ask
