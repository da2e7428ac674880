"""The roofline (Williams et al. 2009, doi:10.1145/1498765.1498785): what operators reach of what the machine can do.

Arithmetic a second over arithmetic per byte, both logarithmic. The slanted roof is the memory's rate, the flat
ones are matrix products in each type. Operators whose arithmetic is not counted have no place on the horizontal
axis; they stand in a lane at its left, as far below the memory's roof as they are slower than it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fulldeck.figures import milliseconds
from fulldeck.report.axis import Axis
from fulldeck.report.waterfall import COLOURS
from fulldeck.report.words import si

LEFT, RIGHT, TOP, BOTTOM, LANE = 58, 14, 22, 46, 64
"""Pixels around the plot, and of the lane."""
DEEPEST = 1e3
"""The best roof by the lowest place; marks below it stand on the floor, which says little of them."""
SMALL, LARGE = 3.5, 13.0
"""Radii of marks."""
LETTER, LINE = 6.3, 13
"""Width and height of a letter, about."""
ALONG = (0.45, 0.3, 0.6, 0.2, 0.75)
"""Of the memory's roof: where its label may stand, the first before the others."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
Mark = tuple[float, float, float]
"""Its middle and its radius."""


def roofline(
    operators: Sequence[Mapping[str, Any]], ceilings: Mapping[str, Any], width: int, height: int
) -> dict[str, Any]:
    """The drawing in `width` x `height` pixels of `operators` and `ceilings`, as a diagnosis has them."""
    return _Plot(operators, ceilings, width, height).drawing()


@dataclass
class _Plot:
    operators: Sequence[Mapping[str, Any]]
    ceilings: Mapping[str, Any]
    width: int
    height: int
    taken: list[Box] = field(default_factory=list)
    """Where something stands that no label may cover."""

    def __post_init__(self) -> None:
        self.memory: float = self.ceilings["bytes_per_s"]
        self.used = {one["dtype"] for one in self.operators if one["flops"]} or {"float32"}
        slowest = min((self.rate(dtype) for dtype in self.used), default=0.0)
        self.roofs = {
            dtype: rate
            for dtype, rate in self.ceilings["flops_per_s"].items()
            if dtype in self.used or rate >= slowest
        }
        self.has_lane = any(not one["flops"] for one in self.operators)
        self.start = LEFT + (LANE if self.has_lane else 0)
        intensities = [one["intensity"] for one in self.operators if one["flops"] and one["intensity"]]
        ridges = [rate / self.memory for rate in self.roofs.values()]
        self.across = Axis(min([*intensities, *ridges]) / 2.5, max([*intensities, *ridges]) * 4, log=True)
        rates = [self.reached(one) for one in self.operators]
        top = max([*self.roofs.values(), *rates]) * 1.6
        low = min([*(rate for rate in rates if rate > 0), self.across.low * self.memory]) / 1.8
        self.up = Axis(max(low, top / DEEPEST), top, log=True)

    def rate(self, dtype: str) -> float:
        rates = self.ceilings["flops_per_s"]
        return float(rates.get(dtype) or rates["float32"])

    def reached(self, one: Mapping[str, Any]) -> float:
        """Arithmetic a second; in the lane, the memory's roof there by the share of it that is reached."""
        if one["flops"]:
            return float(one["flops_per_s"])
        return float(self.across.low * self.memory * one["bytes_of_ceiling"])

    def x(self, value: float) -> float:
        return round(self.start + (self.width - RIGHT - self.start) * self.across.place(value), 1)

    def y(self, value: float) -> float:
        return round(TOP + (self.height - BOTTOM - TOP) * (1 - self.up.place(value)), 1)

    def drawing(self) -> dict[str, Any]:
        roofs = self._roofs()
        places = self._places()
        memory = self._memory_roof()
        return {
            "width": self.width,
            "height": self.height,
            "left": LEFT,
            "start": self.start,
            "right": self.width - RIGHT,
            "top": TOP,
            "bottom": self.height - BOTTOM,
            "lane": LEFT + LANE / 2 if self.has_lane else None,
            "ticks_x": [(self.x(value), f"{value:g}") for value in self.across.ticks()],
            "ticks_y": [(self.y(value), si(value, "")) for value in self.up.ticks()],
            "roofs": roofs,
            "memory": memory,
            "marks": self._marks(places),
        }

    def _roofs(self) -> list[dict[str, Any]]:
        found = []
        for dtype, rate in sorted(self.roofs.items(), key=lambda item: -item[1]):
            y = self.y(rate)
            text = f"{dtype} {si(rate, 'FLOP/s')}"
            right = self.width - RIGHT
            box = _box(right, y - 5, text, "end")
            written = not self._covered(box)
            if written:
                self.taken.append(box)
            found.append(
                {
                    "path": f"M{self.x(rate / self.memory)} {y}H{right}",
                    "used": dtype in self.used,
                    "text": text if written else "",
                    "x": right,
                    "y": y - 5,
                }
            )
        return found

    def _memory_roof(self) -> dict[str, Any]:
        top = max(self.roofs.values())
        x0, y0 = self.start, self.y(self.across.low * self.memory)
        x1, y1 = self.x(top / self.memory), self.y(top)
        begin = f"M{LEFT} {y0}H{x0}" if self.has_lane else f"M{x0} {y0}"
        text = f"memory {si(self.memory, 'B/s')}"
        angle = math.atan2(y1 - y0, x1 - x0)
        along = [(x0 + share * (x1 - x0) - 4, y0 + share * (y1 - y0) - 6) for share in ALONG]
        boxes = [self._slanted(x, y, angle, len(text)) for x, y in along]
        # Where it covers the fewest marks; they have no other place.
        best = min(range(len(ALONG)), key=lambda place: sum(map(self._covered, boxes[place])))
        self.taken += boxes[best]
        return {
            "path": f"{begin}L{x1} {y1}",
            "text": text,
            "x": round(along[best][0], 1),
            "y": round(along[best][1], 1),
            "angle": round(math.degrees(angle), 1),
        }

    def _slanted(self, x: float, y: float, angle: float, letters: int) -> list[Box]:
        """Where each letter of a text stands whose middle is (x, y)."""
        places = [LETTER * (place + 0.5 - letters / 2) for place in range(letters)]
        middles = [(x + at * math.cos(angle), y - 4 + at * math.sin(angle)) for at in places]
        return [(a - LETTER / 2, b - LINE / 2, a + LETTER / 2, b + LINE / 2) for a, b in middles]

    def _ordered(self) -> list[Mapping[str, Any]]:
        return sorted(self.operators, key=lambda one: -one["milliseconds"])

    def _places(self) -> list[Mark]:
        most = max((one["milliseconds"] for one in self.operators), default=0) or 1
        places: list[Mark] = []
        for one in self._ordered():
            x, y, r = place = self._place(one, most, places)
            places.append(place)
            self.taken.append((x - r, y - r, x + r, y + r))
        return places

    def _marks(self, places: Sequence[Mark]) -> list[dict[str, Any]]:
        return [
            {
                "path": _shape(one["phase"], x, y, r),
                "colour": COLOURS.get(one["phase"]),
                "title": _title(one),
                "label": self._label(one["name"].removeprefix("aten::"), x, y, r),
            }
            for one, (x, y, r) in zip(self._ordered(), places, strict=True)
        ]

    def _place(self, one: Mapping[str, Any], most: float, others: Sequence[Mark]) -> Mark:
        r = round(SMALL + (LARGE - SMALL) * math.sqrt(one["milliseconds"] / most), 1)
        y = min(self.y(self.reached(one)), self.height - BOTTOM - r)
        if one["flops"] and one["intensity"]:
            return self.x(one["intensity"]), y, r
        # In the lane the horizontal place says nothing, so marks may make room for each other.
        tries = [LEFT + LANE * share for share in (0.5, 0.25, 0.75, 0.1, 0.9)]
        free = (x for x in tries if all(math.hypot(x - a, y - b) > r + c for a, b, c in others))
        return next(free, tries[0]), y, r

    def _label(self, text: str, x: float, y: float, r: float) -> dict[str, Any] | None:
        """Where the name of a mark stands free, or None."""
        for at, line, anchor in (
            (x + r + 4, y + 4, "start"),
            (x - r - 4, y + 4, "end"),
            (x, y - r - 4, "middle"),
            (x, y + r + LINE, "middle"),
        ):
            box = _box(at, line, text, anchor)
            inside = box[0] >= LEFT and box[2] <= self.width - RIGHT + 8 and box[3] <= self.height - BOTTOM
            if inside and not self._covered(box):
                self.taken.append(box)
                return {"x": round(at, 1), "y": round(line, 1), "anchor": anchor, "text": text}
        return None

    def _covered(self, box: Box) -> bool:
        return any(
            box[0] < right and left < box[2] and box[1] < bottom and top < box[3]
            for left, top, right, bottom in self.taken
        )


def _box(x: float, y: float, text: str, anchor: str) -> Box:
    width = LETTER * len(text)
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return left, y - LINE + 3, left + width, y + 3


def _shape(phase: str, x: float, y: float, r: float) -> str:
    """A mark around (x, y): forward a circle, backward a diamond, the rest a square, for who sees no colours."""
    if phase == "forward":
        return f"M{x - r:.1f} {y}a{r} {r} 0 1 0 {2 * r:.1f} 0a{r} {r} 0 1 0 {-2 * r:.1f} 0Z"
    if phase == "backward":
        return f"M{x - r:.1f} {y}L{x} {y - r:.1f}L{x + r:.1f} {y}L{x} {y + r:.1f}Z"
    half = 0.8 * r
    return f"M{x - half:.1f} {y - half:.1f}h{2 * half:.1f}v{2 * half:.1f}h{-2 * half:.1f}Z"


def _title(one: Mapping[str, Any]) -> str:
    rate = (
        f"{si(one['flops_per_s'], 'FLOP/s')} ({one['flops_of_ceiling']:.0%} of what can be)"
        if one["flops"]
        else f"{si(one['bytes_per_s'], 'B/s')} ({one['bytes_of_ceiling']:.0%} of what can be)"
    )
    return f"{one['name']}, {one['phase']}: {milliseconds(one['milliseconds'])}, {one['share']:.0%} of the step, {rate}"
