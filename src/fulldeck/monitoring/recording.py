"""Counts and distributions that cost less to record than to think about.

A value goes to a list (`observe` is that list's own `append`) and is sorted into buckets when somebody looks, all
that came since at once. Buckets are 2 % wide, so quantiles are right within 1 %; Prometheus gets the coarse
bounds that are among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]

SECONDS = (
    *(
        0.0005,
        0.001,
        0.002,
        0.003,
        0.005,
        0.0075,
        0.01,
        0.015,
        0.02,
        0.03,
        0.05,
        0.075,
        0.1,
        0.15,
        0.2,
        0.3,
        0.5,
    ),
    *(0.75, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Bounds of times in Prometheus: upper ends of buckets, in seconds."""
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
"""Bounds of batch sizes."""
RATIO = 1.02
"""Upper by lower end of a fine bucket, at most."""
BELOW, ABOVE = 50.0, 10.0
"""How far fine buckets reach below the first coarse bound and above the last one."""


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1.0) -> None:
        """Count `amount` more."""
        self.value += amount


class Histogram:
    """How often values came, by size. `bounds` are the coarse ones, rising and positive."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._fine, self._places = fine_bounds(self.bounds)
        self._counts: Counts = np.zeros(len(self._fine) + 1, np.int64)
        self._sum = 0.0
        self._new: list[float] = []
        self.observe: Callable[[float], None] = self._new.append
        """Record one value."""

    def counts(self) -> Counts:
        """A copy of the counts of the fine buckets so far, for `quantile`; the last one has no upper end."""
        self.settle()
        return self._counts.copy()

    def cumulative(self) -> tuple[list[tuple[float, int]], float]:
        """(coarse bound, values up to it), the last bound being infinity; and the sum of all values."""
        self.settle()
        up_to = np.cumsum(self._counts)
        pairs = [(bound, int(up_to[place])) for bound, place in zip(self.bounds, self._places, strict=True)]
        return [*pairs, (math.inf, int(up_to[-1]))], self._sum

    def quantile(self, counts: Counts, share: float) -> float | None:
        """The value below which `share` of `counts` (or a difference of two) lie; None of nothing.

        Within 1 % for values between the ends of the fine buckets.
        """
        total = int(counts.sum())
        if total == 0:
            return None
        place = int(np.searchsorted(np.cumsum(counts), share * total))
        place = min(max(place, 1), len(self._fine) - 1)
        return math.sqrt(self._fine[place - 1] * self._fine[place])

    def settle(self) -> None:
        """Sort in what was recorded since the last call; until then it is kept, value by value."""
        size = len(self._new)
        if size == 0:
            return
        values = np.array(self._new[:size])
        del self._new[:size]
        places = np.searchsorted(self._fine, values)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(values.sum())


def fine_bounds(bounds: Sequence[float]) -> tuple[npt.NDArray[np.float64], list[int]]:
    """Bounds in steps of at most RATIO that hold `bounds`, and at which places."""
    ends = [bounds[0] / BELOW, *bounds, bounds[-1] * ABOVE]
    fine: list[float] = [ends[0]]
    for low, high in pairwise(ends):
        steps = math.ceil(math.log(high / low) / math.log(RATIO))
        fine += [low * (high / low) ** (step / steps) for step in range(1, steps)] + [high]
    return np.array(fine), [fine.index(bound) for bound in bounds]


def bucket(bound: float) -> str:
    """How `bound` is written in a label `le`: newer Prometheus writes all of them so itself."""
    return "+Inf" if bound == math.inf else repr(float(bound))
