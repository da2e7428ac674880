"""The range test: let the rate rise step by step, and see where the loss falls and where it explodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fulldeck.errors import BadInput, RunFailed

_MEMORY = 0.9
"""Share of the smoothed loss that is kept at each step."""
_EXPLODED = 2.0
"""Rise of the smoothed loss over its smallest value, as a share of what it fell or of itself, that ends it."""
_BELOW_BEST = 10.0
"""The rate of the lowest loss is the largest that still works; a training needs one below it."""


@dataclass(frozen=True)
class RangeTest:
    """The smoothed `losses` at rising `rates`, and the base rate that they speak for."""

    rates: list[float]
    losses: list[float]
    suggestion: float


def range_test(
    step: Callable[[float], float], *, lowest: float = 1e-6, highest: float = 1.0, steps: int = 100
) -> RangeTest:
    """Train `steps` steps at rates that rise evenly in the logarithm from `lowest` to `highest`.

    `step(rate)` trains one step on a fresh batch and returns its loss. The test ends early where the loss
    explodes. The suggestion is a tenth of the rate at the lowest smoothed loss (Smith 2017,
    arXiv:1506.01186; the tenth is common practice). What was trained is spoilt afterwards: use a copy.
    Raises BadInput if the loss never falls.
    """
    rates: list[float] = []
    losses: list[float] = []
    average = weight = 0.0
    for place in range(steps):
        rate = lowest * (highest / lowest) ** (place / max(steps - 1, 1))
        try:
            loss = step(rate)
        except RunFailed:
            break
        if not math.isfinite(loss):
            break
        average = _MEMORY * average + (1 - _MEMORY) * loss
        weight = _MEMORY * weight + (1 - _MEMORY)
        rates.append(rate)
        losses.append(average / weight)
        if losses[-1] > _EXPLODED * max(min(losses), 1e-12) and losses[-1] > losses[0]:
            break
    if len(losses) < 2 or min(losses) >= losses[0]:
        raise BadInput(
            f"the range test found no rate between {lowest:g} and {highest:g} at which the loss falls; check the "
            "data and the loss, or leave range_test out and set train.learning_rate"
        )
    return RangeTest(rates, losses, rates[losses.index(min(losses))] / _BELOW_BEST)
