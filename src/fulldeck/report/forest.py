"""Forest plots: effects under each other on one axis, each with its interval, beside what was said before.

Places are in percent of the axis, so a drawing is as wide as the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fulldeck.report.axis import Axis
from fulldeck.report.effects import POINTS
from fulldeck.report.words import NO_BREAK

Interval = tuple[float, float]
"""May be unbounded: of a single measurement nothing is known."""
ROOM = 0.06
"""Of the axis, free at both ends."""
LONGEST = 3.0
"""An interval's end counts for the axis up to so many times the distance of what is furthest from neutral."""


@dataclass(frozen=True)
class Effect:
    """One line of a forest plot."""

    label: str
    note: str
    text: str
    """The effect with its interval, as a person reads it; empty where nothing was measured."""
    verdict: str = ""
    estimate: float | None = None
    interval: Interval | None = None
    before: float | None = None
    """What was said before measuring: the bound of the claim, or the prediction."""
    control: Interval | None = None
    """Of two equal arms: how far the machine itself wavers."""
    beside: bool = False
    """Whether it belongs to the line above it: a cost."""


def forest(title: str, effects: Sequence[Effect], *, ratios: bool, share: bool = False) -> dict[str, Any]:
    """A drawing of `effects`: ratios (1 is no change, drawn logarithmically) or differences (0 is none).

    Differences of a `share` are written in percentage points.
    """
    axis = _axis(effects, ratios)
    neutral = 1.0 if ratios else 0.0
    return {
        "title": title,
        "neutral": _percent(axis, neutral),
        "ticks": [(_percent(axis, value), _tick(value, ratios, share)) for value in axis.ticks()],
        "rows": [_row(effect, axis) for effect in effects],
        "controls": any(effect.control for effect in effects),
    }


def _row(effect: Effect, axis: Axis) -> dict[str, Any]:
    row: dict[str, Any] = {
        "label": effect.label,
        "note": effect.note,
        "text": effect.text,
        "verdict": effect.verdict,
        "beside": effect.beside,
    }
    if effect.estimate is not None:
        row["estimate"] = _percent(axis, effect.estimate)
    if effect.before is not None:
        row["before"] = _percent(axis, effect.before)
    for name, interval in (("interval", effect.interval), ("control", effect.control)):
        if interval is not None:
            row[name] = [_percent(axis, end) for end in interval]
    if effect.interval is not None:
        low, high = effect.interval
        row["beyond"] = (low < axis.low, high > axis.high)
    return row


def _axis(effects: Sequence[Effect], ratios: bool) -> Axis:
    """Wide enough for every estimate and what was said before, and for intervals that are not absurd."""

    def scaled(value: float) -> float:
        return math.log(value) if ratios else value

    def usable(value: float | None) -> bool:
        return value is not None and math.isfinite(value) and (value > 0 or not ratios)

    points = [
        scaled(value)
        for effect in effects
        for value in (effect.estimate, effect.before)
        if value is not None and usable(value)
    ]
    furthest = max(map(abs, points), default=0.0) or (math.log(1.1) if ratios else 0.01)
    ends = [
        max(min(scaled(end), LONGEST * furthest), -LONGEST * furthest)
        for effect in effects
        for interval in (effect.interval, effect.control)
        for end in interval or ()
        if usable(end)
    ]
    low, high = min([0.0, *points, *ends]), max([0.0, *points, *ends])
    room = ROOM * (high - low) or furthest
    low, high = low - room, high + room
    return Axis(math.exp(low), math.exp(high), log=True) if ratios else Axis(low, high)


def _percent(axis: Axis, value: float) -> str:
    return f"{100 * axis.place(value):.2f}"


def _tick(value: float, ratios: bool, share: bool) -> str:
    if ratios:
        return f"{value:.4g}×"
    if abs(value) < 1e-12:
        return "0"
    return f"{100 * value:+.4g}{NO_BREAK}{POINTS}" if share else f"{value:+.4g}"
