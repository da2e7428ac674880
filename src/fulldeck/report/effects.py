"""Effects as a person reads them, from the results of `fulldeck verify`: what is compared, in which unit, how sure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fulldeck.report.words import NO_BREAK, is_share, shown

Scale = Literal["ratio", "difference", "alone"]

_UNITS = {"step_time": "_ms", "latency": "_ms", "peak_memory": "_bytes"}
"""Of the figures that are not named after their unit."""
NARROW = 0.05
POINTS = "pp"
"""Percentage points, which differences of shares are in."""


def claimed(claim: str) -> tuple[Scale, float, bool]:
    """What a claim such as `<= 0.6x` or `>= +0.02` compares, its bound, and whether less is better."""
    bound = claim[2:].strip()
    scale: Scale = "ratio" if bound.endswith("x") else "difference" if bound[0] in "+-" else "alone"
    return scale, float(bound.rstrip("x")), claim.startswith("<=")


def measured(name: str, value: Any) -> str:
    """A figure of one arm in its unit: `step_time` 5.2 is "5.2 ms"."""
    return shown(name + _UNITS.get(name, ""), value)


def times(ratio: float, decimals: int = 2) -> str:
    """A ratio: `0.62×`."""
    return f"{ratio:.{decimals}f}×"


def difference(name: str, value: float) -> str:
    """A difference with its sign; of shares in percentage points: `+0.81 pp`."""
    return f"{100 * value:+.2f}{NO_BREAK}{POINTS}" if is_share(name) else f"{value:+.3g}"


def effect_text(figure: Mapping[str, Any]) -> str:
    """Of a result of `fulldeck verify`, or one of its costs: "0.62× (0.60× to 0.65×)"."""
    name, scale = figure["metric"], claimed(figure["claim"])[0]
    if scale == "alone":
        return measured(name, figure["treatment"])
    if scale == "difference":
        return difference_text(name, figure["difference"], figure["interval"])
    return ratio_text(figure["ratio"], figure["interval"])


def ratio_text(ratio: float, interval: Sequence[float]) -> str:
    """A ratio with its interval; a narrow one has a digit more."""
    decimals = 3 if interval[1] - interval[0] < NARROW else 2
    return _with_interval(times(ratio, decimals), interval, [times(end, decimals) for end in interval])


def difference_text(name: str, value: float, interval: Sequence[float]) -> str:
    """A difference with its interval."""
    return _with_interval(difference(name, value), interval, [difference(name, end) for end in interval])


def _with_interval(estimate: str, interval: Sequence[float], ends: Sequence[str]) -> str:
    if not all(map(math.isfinite, interval)):
        return f"{estimate} (too few measurements for an interval)"
    if interval[0] == interval[1]:
        return estimate
    return f"{estimate} ({ends[0]}{NO_BREAK}to{NO_BREAK}{ends[1]})"
