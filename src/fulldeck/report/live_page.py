"""The page that follows a server or a training while it runs: charts of the panels, fed by events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fulldeck.monitoring.panels import Panel, Unit
from fulldeck.report.page import render

SHOWN: dict[Unit, tuple[float, str]] = {
    "ratio": (1, ""),
    "mean": (1, ""),
    "whole": (1, ""),
    "plain": (1, ""),
    "per_second": (1, "/s"),
    "seconds": (1e3, "ms"),
    "bytes": (1e-6, "MB"),
    "bytes_per_second": (1e-9, "GB/s"),
}
"""Unit to what a figure is multiplied by to be shown, and the unit's name then."""


def live_page(
    name: str, panels: Sequence[Panel], *, events: str, bounds: tuple[int, int] | None = None
) -> str:
    """The page of `name`, whose figures come as server-sent events from the path `events`.

    With `bounds`, of the replicas, it has the log of scale decisions too.
    """
    return render(
        "live.html",
        name=name,
        bounds=bounds,
        content={"events": events, "panels": [_described(panel) for panel in panels]},
    )


def _described(panel: Panel) -> dict[str, Any]:
    factor, unit = SHOWN[panel.unit]
    return {
        "title": f"{panel.title}, {'per second' if unit == '/s' else unit}" if unit else panel.title,
        "short": panel.title,
        "says": panel.says,
        "share": panel.unit == "ratio",
        "whole": panel.unit == "whole",
        "floor": None if panel.unit == "plain" else 0,
        "unit": unit,
        "factor": factor,
        "lines": [{"legend": line.legend, "figure": line.figure} for line in panel.lines],
    }
