"""From paired measurements to a verdict: intervals, planned looks, and when nothing can be said.

Ratios are treatment over baseline, one a round; both arms ran in that round, in random order, so a machine
that is slow for a while slows both. The interval of their median comes from order statistics and assumes
nothing about the distribution (Conover 1999, Practical Nonparametric Statistics, 3.2; `scipy.stats.
quantile_test`). Looking before the end is paid for: each look spends its part of ALPHA (Lan & DeMets 1983,
Pocock's spending), and the parts are added as if they were independent, which errs on the safe side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ALPHA = 0.05
LOOKS = (15, 30, 60, 120, 240)
"""Rounds after which a measurement may be decided; nowhere else, or false verdicts abound. The last two are for noisy
machines: on one whose rounds differ by a tenth, 60 of them do not even tell two equal arms apart from unequal ones."""
MARGIN = 0.03
"""Ratios this near to 1 make no difference."""

Verdict = Literal["helps", "no difference", "hurts", "inconclusive"]
Direction = Literal["lower", "higher"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float

    def within(self, low: float, high: float) -> bool:
        """Whether all of it lies between the two."""
        return low <= self.low and self.high <= high

    def excludes(self, value: float) -> bool:
        return value < self.low or value > self.high


def spent(look: int, looks: Sequence[int] = LOOKS) -> float:
    """The part of ALPHA that the look number `look` (from 0) may spend."""

    def until(rounds: int) -> float:
        return ALPHA * math.log(1 + (math.e - 1) * rounds / looks[-1])

    return until(looks[look]) - (until(looks[look - 1]) if look else 0.0)


def left(rounds: int, looks: Sequence[int] = LOOKS) -> float:
    """The part of ALPHA that is left for a last look after `rounds`, when the time is up.

    Nothing that was seen has brought that look about, so it need not have been planned (Lan & DeMets 1983).
    """
    return ALPHA - sum(spent(look, looks) for look, due in enumerate(looks) if due <= rounds)


def median_interval(values: Sequence[float], alpha: float = ALPHA) -> Interval:
    """The median of at least two `values`, with its interval of confidence 1 - `alpha`.

    With too few values for that confidence (less than six for 95 %) the interval is unbounded.
    """
    import numpy as np
    from scipy.stats import quantile_test

    median = float(np.median(values))
    bounds = quantile_test(values, q=median, p=0.5).confidence_interval(1 - alpha)
    low, high = float(bounds.low), float(bounds.high)
    return Interval(median, -math.inf if math.isnan(low) else low, math.inf if math.isnan(high) else high)


def mean_interval(values: Sequence[float], alpha: float = ALPHA) -> Interval:
    """The mean of `values` (one a seed) with its t-interval; unbounded for a single value."""
    import numpy as np
    from scipy.stats import t

    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Interval(mean, -math.inf, math.inf)
    half = float(t.ppf(1 - alpha / 2, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
    return Interval(mean, mean - half, mean + half)


def judge(effect: Interval, *, neutral: float, margin: float, better: Direction) -> Verdict:
    """What an interval says of an effect that would be `neutral` (1 for ratios, 0 for differences) if none.

    *no difference* if all of it lies within `margin` of neutral, *helps* or *hurts* if it excludes neutral.
    """
    if effect.within(neutral - margin, neutral + margin):
        return "no difference"
    if not effect.excludes(neutral):
        return "inconclusive"
    return "helps" if (effect.estimate < neutral) == (better == "lower") else "hurts"


def noisy(control: Interval) -> str | None:
    """Why a machine on which the baseline differs so from itself allows no verdict, or None.

    `control` is the ratio of two equal arms in the same rounds.
    """
    if control.within(1 - MARGIN, 1 + MARGIN):
        return None
    said = f"two equal arms differ by a ratio of {control.estimate:.3f} ({control.low:.3f} to {control.high:.3f})"
    return (
        f"the machine is too noisy: {said}; the interval should lie within {1 - MARGIN:g} to {1 + MARGIN:g}"
    )


def rounds_to_decide(effect: Interval, rounds: int, *, neutral: float = 1.0, margin: float = MARGIN) -> int:
    """About how many rounds would decide: an interval shrinks with the square root of their number.

    Its half-width must come down to the distance of the estimate from neutral, or to what is left of the
    margin, whichever is reached first.
    """
    half = (effect.high - effect.low) / 2
    if not math.isfinite(half):
        return LOOKS[0]
    away = abs(effect.estimate - neutral)
    wanted = max(away, margin - away)
    return max(math.ceil(rounds * (half / wanted) ** 2), rounds + 1)
