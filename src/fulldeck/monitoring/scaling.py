"""When to have more replicas and when fewer: from loads that agree, never from one signal or from none.

Level-triggered: an alert only wakes the controller, and each time the load itself decides, so deliveries that
come twice, late or in the wrong order change nothing. See docs/monitoring.md for the rule in words.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, Self

from pydantic import model_validator

from fulldeck.declared import Declared
from fulldeck.errors import BadInput
from fulldeck.param import param

CARRIED = "scaling"
"""Label under which a package carries its Scaling."""
LOW, HIGH, WATCHDOG = "FulldeckLowUtilisation", "FulldeckHighLoad", "FulldeckWatchdog"
"""The alerts for fewer and for more replicas, and the one that always fires, to show that alerts arrive."""
JITTER = 1.5
"""Loads further apart than so many intervals are not consecutive."""
LINE = 0.5
"""Requests that wait, the mean, from which a queue is not empty: each one waits for a moment."""
AGREEING = 2
"""Loads that must agree before replicas are added: one may be a hiccup."""
FULL = 0.8
"""Share of busy time from which engine processes have no room left."""
ALERT_SECONDS = 300.0
"""How long an alert counts after it was last heard of."""
LOGGED = 100


class Scaling(Declared):
    """Bounds and thresholds of scaling."""

    min_replicas: int = param(1, ge=1, le=64, doc="Fewest replicas.")
    max_replicas: int = param(4, ge=1, le=64, doc="Most replicas.")
    low_utilisation: float = param(
        0.3, gt=0, lt=1, doc="Utilisation below which a sample counts as low.", search=(0.2, 0.3, 0.4)
    )
    samples: int = param(3, ge=2, le=100, doc="Consecutive low samples that start scale-in.")
    interval_s: float = param(5.0, gt=0, le=300, doc="Seconds between two samples.")
    target_busy: float = param(
        0.6, gt=0, lt=1, doc="Share of busy time of a replica that the number of replicas is to give."
    )
    cooldown_s: float = param(60.0, ge=0, doc="Seconds after a change in which no replica is removed.")
    needs_alert: bool = param(
        False,
        doc="Remove replicas only while Alertmanager says so too; else the server's own samples suffice.",
    )

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas must be at most max_replicas, got {self.min_replicas} and {self.max_replicas}"
            )
        return self

    def bounded(self, replicas: int) -> int:
        """The nearest number within the bounds."""
        return max(self.min_replicas, min(self.max_replicas, replicas))

    @staticmethod
    def bounds(text: str) -> dict[str, int]:
        """The bounds that `MIN:MAX` says. Raises BadInput for anything else."""
        try:
            low, high = map(int, text.split(":"))
        except ValueError:
            raise BadInput(f'replicas must be MIN:MAX, such as 1:4, got "{text}"') from None
        if low > high:
            raise BadInput(f"replicas must be MIN:MAX with MIN up to MAX, got {text}; write {high}:{low}")
        return {"min_replicas": low, "max_replicas": high}


@dataclass(frozen=True)
class Load:
    """One look at what the replicas do; None is what is not known."""

    at: float
    """When, in seconds."""
    utilisation: float | None
    """Of the busiest device, between 0 and 1."""
    busy: float | None
    """Share of their time that replicas worked on requests, which they count themselves."""
    queue: float
    """Requests that waited, the mean."""
    replicas: int
    """Those that take requests."""
    whole: bool
    """Whether as many take requests as should."""


@dataclass(frozen=True)
class Decision:
    """A change of replicas, or, with equal numbers, why there is none."""

    at: float
    before: int
    after: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As the live page shows it."""
        return asdict(self)


class Controller:
    """Decides from a sequence of loads. Times are seconds on one clock, which the caller has."""

    def __init__(self, scaling: Scaling) -> None:
        self.scaling = scaling
        self.alerts = Alerts()
        self.log: deque[Decision] = deque(maxlen=LOGGED)
        """Changes, and why there was none each time that reason changed; the newest last."""
        self._loads: deque[Load] = deque(maxlen=scaling.samples)
        self._changed: float | None = None

    def see(self, load: Load) -> None:
        """Take one more sample, each `interval_s`."""
        self._loads.append(load)

    def decide(self, now: float, replicas: int) -> int:
        """How many replicas there should be, being `replicas` now; may be asked at any time, again and again.

        A change empties the memory: what was seen with another number of replicas says nothing about this.
        """
        wanted, reason = self._wanted(now, replicas)
        if wanted != replicas:
            self._changed = now
            self._loads.clear()
        elif self.log and self.log[-1].after == replicas and _words(self.log[-1].reason) == _words(reason):
            return replicas
        self.log.append(Decision(now, replicas, wanted, reason))
        return wanted

    def _wanted(self, now: float, replicas: int) -> tuple[int, str]:
        if replicas != (kept := self.scaling.bounded(replicas)):
            return kept, f"the bounds are {self.scaling.min_replicas} to {self.scaling.max_replicas}"
        if not self._loads or not 0 <= now - self._loads[-1].at <= JITTER * self.scaling.interval_s:
            return replicas, "there is no fresh sample"
        return self._more(replicas) or self._fewer(now, replicas)

    def _more(self, replicas: int) -> tuple[int, str] | None:
        recent = self._consecutive(AGREEING)
        if recent is None or not all(
            load.busy is not None and load.busy >= FULL and load.queue >= LINE for load in recent
        ):
            return None
        load = recent[-1]
        state = f"replicas are busy {load.busy:.0%} of their time and {load.queue:.1f} requests wait"
        wanted = self.scaling.bounded(min(2 * replicas, self._needed(recent)))
        if wanted <= replicas:
            return replicas, f"{state}, and there may be no more than {self.scaling.max_replicas}"
        return wanted, state

    def _fewer(self, now: float, replicas: int) -> tuple[int, str]:
        scaling = self.scaling
        if (reason := self._why_not(self._loads[-1])) is not None:
            return replicas, reason
        recent = self._consecutive(scaling.samples)
        if recent is None:
            return replicas, f"fewer than {scaling.samples} consecutive samples since the last change or gap"
        for load in recent:
            if (reason := self._why_not(load)) is not None:
                return replicas, f"not all of {scaling.samples} samples were low: {reason}"
        low = f"utilisation was under {scaling.low_utilisation:.0%} in {scaling.samples} samples, no queue"
        if replicas == scaling.min_replicas:
            return replicas, f"{low}, and there may be no fewer than {replicas}"
        if self._changed is not None and now - self._changed < scaling.cooldown_s:
            return replicas, f"{low}; waiting {scaling.cooldown_s:g} s after the last change"
        if scaling.needs_alert and not self.alerts.firing(LOW, now):
            said = "no alert says so" if self.alerts.arrive(now) else "nothing is heard of Alertmanager"
            return replicas, f"{low}, and {said}"
        wanted = scaling.bounded(max(math.ceil(replicas / 2), self._needed(recent)))
        if wanted >= replicas:
            return replicas, f"{low}; fewer replicas would be busier than {scaling.target_busy:.0%}"
        return wanted, low

    def _why_not(self, load: Load) -> str | None:
        """Why this load is no reason to remove a replica."""
        low = self.scaling.low_utilisation
        if load.utilisation is None or load.busy is None:
            return "utilisation is not known"
        if not load.whole:
            return "not all replicas are ready"
        if load.queue >= LINE:
            return f"{load.queue:.1f} requests wait"
        if load.busy >= low:
            return f"replicas are busy {load.busy:.0%} of their time"
        if load.utilisation >= low:
            return f"utilisation is {load.utilisation:.0%}"
        return None

    def _needed(self, loads: Iterable[Load]) -> int:
        """Replicas that would be busy `target_busy` of their time with the most work seen."""
        work = max((load.busy or 0) * load.replicas for load in loads)
        return math.ceil(round(work / self.scaling.target_busy, 6))

    def _consecutive(self, count: int) -> list[Load] | None:
        """The last `count` loads, if there are so many without a gap between."""
        loads = list(self._loads)[-count:]
        gap = JITTER * self.scaling.interval_s
        whole = all(0 < new.at - old.at <= gap for old, new in pairwise(loads))
        return loads if len(loads) == count and whole else None


class Alerts:
    """What Alertmanager has said. Deliveries may come twice, late, and in any order."""

    def __init__(self) -> None:
        self.heard: float | None = None
        """When anything was last heard."""
        self._started: dict[tuple[str, str], tuple[float, float]] = {}
        """(name, fingerprint) of firing alerts to when they started and were last heard of."""
        self._ended: dict[tuple[str, str], float] = {}

    def firing(self, name: str, now: float) -> bool:
        """Whether an alert of this name fires, as far as was heard not too long ago."""
        return any(
            key[0] == name and now - heard <= ALERT_SECONDS for key, (_, heard) in self._started.items()
        )

    def arrive(self, now: float) -> bool:
        """Whether anything was heard not too long ago; FulldeckWatchdog always fires, so something should be."""
        return self.heard is not None and now - self.heard <= ALERT_SECONDS

    def hear(self, body: Mapping[str, Any], now: float) -> int:
        """Take one delivery of Alertmanager's webhook (version 4); return how many alerts it had.

        Raises BadInput for what is none.
        """
        alerts = body.get("alerts")
        if body.get("version") != "4" or not isinstance(alerts, list):
            raise BadInput(
                'this is no delivery of Alertmanager\'s webhook: it wants "version": "4" and "alerts"'
            )
        taken = [_alert(alert) for alert in alerts]
        self.heard = now
        for key, status, started, ended in taken:
            if status == "resolved":
                if (known := self._started.get(key)) is None or known[0] <= ended:
                    self._started.pop(key, None)
                self._ended[key] = max(ended, self._ended.get(key, 0.0))
            elif started > self._ended.get(key, -math.inf):  # else it is older than its own end
                known = self._started.get(key)
                self._started[key] = (started if known is None else max(started, known[0]), now)
        for memory in (self._started, self._ended):
            while len(memory) > LOGGED:
                memory.pop(next(iter(memory)))
        return len(taken)


def _words(reason: str) -> str:
    """A reason without its figures: it is the same one when only they differ."""
    return re.sub(r"[\d.]+", "", reason)


def _alert(alert: Any) -> tuple[tuple[str, str], str, float, float]:
    try:
        status = alert["status"]
        key = (str(alert["labels"]["alertname"]), str(alert["fingerprint"]))
        started = datetime.fromisoformat(alert["startsAt"]).timestamp()
        ended = datetime.fromisoformat(alert["endsAt"]).timestamp() if status == "resolved" else 0.0
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"an alert of this delivery cannot be read: {type(error).__name__}: {error}") from None
    if status not in ("firing", "resolved"):
        raise BadInput(f"an alert is firing or resolved, got {str(status)[:40]}")
    return key, status, started, ended
