"""The process that all others wait for."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

STRAGGLES = 1.3
"""Times that a rank computes as long as the others, from which on it is named."""


def straggler(seconds: Sequence[float]) -> tuple[int, float, float] | None:
    """Who computes longer than the others, and how long it and they do; None if nobody stands out.

    `seconds` are those of each rank, in which it did not wait for the others.
    """
    if len(seconds) < 2:
        return None
    slowest = max(range(len(seconds)), key=seconds.__getitem__)
    others = median([*seconds[:slowest], *seconds[slowest + 1 :]])
    return (slowest, seconds[slowest], others) if seconds[slowest] > STRAGGLES * others else None
