"""Drawings that are no time series, as numbers for an SVG: calibration, predictions, residuals, trade-offs.

A drawing is `{"ticks_x", "ticks_y": [(place, text)], "points", "line": path data}` in a frame of WIDTH x
HEIGHT with MARGIN on the left and below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fulldeck.report.axis import round_values

WIDTH, HEIGHT, MARGIN = 360, 280, 44
PAD = 8
"""Above and to the right of the plot, so that marks at the edge are whole."""
Drawing = dict[str, Any]
Range = tuple[float, float]


def calibration(bins: Sequence[Mapping[str, float]]) -> Drawing:
    """Accuracy over confidence; the diagonal is a model that knows how sure it may be."""
    frame = _Frame((0, 1), (0, 1))
    places = [(frame.x(item["confidence"]), frame.y(item["accuracy"])) for item in bins]
    drawn = frame.drawing([(0, 0), (1, 1)], [])
    most = max((item["count"] for item in bins), default=1)
    drawn["curve"] = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places) if places else ""
    # The area of a mark is the number of examples in its bin.
    drawn["marks"] = [
        (round(x, 1), round(y, 1), round(3 + 6 * math.sqrt(item["count"] / most), 1))
        for (x, y), item in zip(places, bins, strict=True)
    ]
    return drawn


def predictions(points: Sequence[Sequence[float]]) -> Drawing:
    """Prediction over truth; on the diagonal they are equal."""
    finite = _finite(points)
    both = _range([value for point in finite for value in point])
    return _Frame(both, both).drawing([(both[0], both[0]), (both[1], both[1])], finite)


def residuals(points: Sequence[Sequence[float]]) -> Drawing:
    """Prediction minus truth over the prediction; a pattern is something that the model has not learnt."""
    finite = [(predicted, predicted - truth) for truth, predicted in _finite(points)]
    most = max((abs(y) for _, y in finite), default=0) or 1
    across = _range([x for x, _ in finite])
    return _Frame(across, (-1.05 * most, 1.05 * most)).drawing([(across[0], 0), (across[1], 0)], finite)


def trade_off(
    points: Sequence[tuple[float, float]],
    front: Sequence[tuple[float, float]],
    marked: Sequence[tuple[float, float]],
) -> Drawing:
    """One figure over another: dots, the steps between those that no other one betters, and a few that are marked."""
    frame = _Frame(_range([x for x, _ in points]), _range([y for _, y in points]))
    drawn = frame.drawing([], points)
    places = [(frame.x(x), frame.y(y)) for x, y in sorted(front)]
    drawn["curve"] = ("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)) if len(places) > 1 else ""
    drawn["front"] = [(round(x, 1), round(y, 1)) for x, y in places]
    drawn["marked"] = [(round(frame.x(x), 1), round(frame.y(y), 1)) for x, y in marked]
    return drawn


@dataclass(frozen=True)
class _Frame:
    """From values to places in the drawing."""

    across: Range
    up: Range

    def x(self, value: float) -> float:
        low, high = self.across
        return MARGIN + (WIDTH - MARGIN - PAD) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.up
        return PAD + (HEIGHT - MARGIN - PAD) * (high - value) / (high - low)

    def drawing(self, line: Sequence[tuple[float, float]], points: Sequence[Sequence[float]]) -> Drawing:
        return {
            "ticks_x": [(round(self.x(value), 1), f"{value:.6g}") for value in round_values(*self.across)],
            "ticks_y": [(round(self.y(value), 1), f"{value:.6g}") for value in round_values(*self.up)],
            "line": "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in line) if line else "",
            # One path of dots (strokes of no length with round ends): a tenth of the bytes of circles.
            "points": "".join(f"M{self.x(x):.1f} {self.y(y):.1f}h0" for x, y in points),
        }


def _finite(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    return [
        (x, y) for x, y in points if all(isinstance(v, (int, float)) and math.isfinite(v) for v in (x, y))
    ]


def _range(values: Sequence[float]) -> Range:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.05 * (high - low) or max(abs(high), 1.0)
    return low - room, high + room
