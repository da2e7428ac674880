"""An axis: from values to shares of its length, and the round values that are written beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

TICKS = 5
"""About as many round values as are written on a linear axis."""
FEW_DECADES = 2.5
"""Up to here a logarithmic axis has 1, 2 and 5 of each power of ten, beyond it only the powers."""


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, which differ; of a logarithmic one both are above 0."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where `value` lies: 0 at `low`, 1 at `high`. What lies beyond is put at the end."""
        if value <= self.low:
            return 0.0
        if value >= self.high:
            return 1.0
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values on it, at least two unless the axis is shorter than a digit of its numbers."""
        if not self.log or self.high / self.low < 3:
            return round_values(self.low, self.high)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        factors = (1, 2, 5) if math.log10(self.high / self.low) <= FEW_DECADES else (1,)
        values = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
        return [
            value for value in values if self.low <= value * (1 + 1e-9) and value <= self.high * (1 + 1e-9)
        ]


def round_values(low: float, high: float) -> list[float]:
    """About TICKS multiples of 1, 2 or 5 times a power of ten, between `low` and `high`."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    return [place * step for place in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
