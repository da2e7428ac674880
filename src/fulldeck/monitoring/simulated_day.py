"""A day of requests as replicas would meet it: what the controller decides in it, and what that would cost."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from fulldeck.monitoring.scaling import Controller, Load, Scaling

SECONDS = 24 * 3600
QUIET, PEAK = 0.1, 2.4
"""Work that comes in the night and at noon, in replicas that would be busy all the time with it."""
SCATTER = 0.15
"""Relative deviation of the work between one interval and the next."""
START_SECONDS = 5.0
"""Until a new replica takes requests."""
LATE_SECONDS = 1.0
"""Work waiting for longer than this, with all replicas at it, is late."""


@dataclass(frozen=True)
class Day:
    """What came of it."""

    replica_share: float
    """Replicas that there were, of the most that there may be; the mean."""
    late_share: float
    """Share of the day in which work was late."""
    changes: int

    @property
    def cost(self) -> float:
        """`replica_share`, the time in which work was late counting as if all replicas had run."""
        return self.replica_share * (1 - self.late_share) + self.late_share


def simulated_day(scaling: Scaling | None, most: int, seed: int = 0) -> Day:
    """A day with one peak, and work that scatters. Without `scaling` there are always `most` replicas."""
    generator = random.Random(seed)
    step = scaling.interval_s if scaling is not None else Scaling().interval_s
    controller = Controller(scaling.replace(needs_alert=False)) if scaling is not None else None
    replicas = most
    starting: list[float] = []
    waiting = used = late = 0.0
    changes = 0
    steps = int(SECONDS / step)
    for number in range(steps):
        now = (number + 1) * step
        wave = 0.5 - 0.5 * math.cos(2 * math.pi * now / SECONDS)
        coming = (QUIET + (PEAK - QUIET) * wave**3) * max(0.0, generator.gauss(1.0, SCATTER)) * step
        starting = [until for until in starting if until > now]
        ready = replicas - len(starting)
        done = min(waiting + coming, ready * step)
        waiting += coming - done
        busy = done / (ready * step) if ready else None
        used += replicas
        late += waiting > LATE_SECONDS * max(ready, 1)
        if controller is None:
            continue
        controller.see(Load(now, busy, busy, waiting, ready, not starting))
        wanted = controller.decide(now, replicas)
        changes += wanted != replicas
        starting = ([*starting, *[now + START_SECONDS] * (wanted - replicas)])[: max(wanted, 0)]
        replicas = wanted
    return Day(used / steps / most, late / steps, changes)
