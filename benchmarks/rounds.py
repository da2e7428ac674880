"""Interleaved measuring: every arm in every round, in random order; medians with their intervals."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from math import comb
from typing import Any, TypeVar

Figure = TypeVar("Figure")


def interleaved(
    arms: Mapping[str, Callable[[], Figure]], rounds: int, *, seed: int = 0
) -> dict[str, list[Figure]]:
    """Call every arm once a round, in a new random order each time; return each arm's figures."""
    order = random.Random(seed)
    figures: dict[str, list[Figure]] = {name: [] for name in arms}
    for _ in range(rounds):
        names = list(arms)
        order.shuffle(names)
        for name in names:
            figures[name].append(arms[name]())
    return figures


def median(values: Sequence[float]) -> dict[str, Any]:
    """The median with its 95 % interval, from order statistics (no assumption about the distribution).

    Below six values such an interval does not exist; it is then the range.
    """
    ordered, count = sorted(values), len(values)
    rank = 0
    while 2 * sum(comb(count, k) for k in range(rank + 1)) / 2**count <= 0.05:
        rank += 1
    low = max(rank - 1, 0)
    return {"median": statistics.median(values), "interval": [ordered[low], ordered[count - 1 - low]]}


def ratio(treatment: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    """Median and interval of the per-round ratios."""
    return median([one / other for one, other in zip(treatment, baseline, strict=True)])


def difference(treatment: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    """Median and interval of the per-round differences."""
    return median([one - other for one, other in zip(treatment, baseline, strict=True)])
