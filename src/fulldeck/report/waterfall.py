"""The parts of a whole as bars, each beginning where the one before it ends: what a step, or a memory, is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLOURS = {
    "data": 1,
    "transfer": 8,
    "instructions": 7,
    "forward": 3,
    "backward": 4,
    "optimizer": 2,
    "communication": 5,
}
"""The phases of a step to the page's colours (--c1 ...); the same in every drawing. Others are grey."""
Bars = list[dict[str, Any]]


def waterfall(parts: Mapping[str, float], texts: Mapping[str, str], strongest: str | None = None) -> Bars:
    """One bar for each of `parts` that is not zero: its `name`, `text`, `share`, `start` and `width` in percent.

    `texts` are the amounts as a person reads them. Where there is a `strongest` it alone has a colour, else the
    phases of a step have theirs.
    """
    whole = sum(parts.values())
    bars: Bars = []
    start = 0.0
    for name, value in parts.items():
        if not value > 0:
            continue
        bars.append(
            {
                "name": name,
                "text": texts[name],
                "share": value / whole,
                "start": f"{100 * start / whole:.2f}",
                "width": f"{100 * value / whole:.2f}",
                "colour": COLOURS.get(name) if strongest is None else None,
                "strongest": name == strongest,
            }
        )
        start += value
    return bars
