"""Charts as plain JSON, which panels.js draws: the learning curves of one run, or of several laid over.

A panel is `{"title", "x", "share", "log", "series": [{"name", "x": [...], "y": [...]}]}`: `x` names the
horizontal axis, `share` asks for percent, `log` for a logarithmic axis, `log_x` for a logarithmic horizontal
one. A y of None is a gap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from fulldeck.report.words import is_share, said, titled

Panel = dict[str, Any]
Curve = tuple[list[int], list[float | None]]
"""Steps, and a value at each."""
Line = Mapping[str, Any]
"""Of metrics.jsonl: an epoch."""

MAX_POINTS = 2_000
"""Of one series; more than a screen has columns is only weight."""
LOG_FROM = 30
"""Largest by smallest loss from which the axis is logarithmic."""
_NOT_FIGURES = ("epoch", "step", "losses_every")


def learning_curves(runs: Mapping[str, Sequence[Line]]) -> list[Panel]:
    """One panel for each figure of the epochs of `runs` (label to lines), the loss first.

    Of one run the loss of training and of validation share a panel; of several each has its own.
    """
    runs = {label: lines for label, lines in runs.items() if lines}
    if not runs:
        return []
    train = {label: _loss_of_steps(lines) for label, lines in runs.items()}
    found = {label: _by_epoch(lines) for label, lines in runs.items()}
    names = list(dict.fromkeys(name for curves in found.values() for name in curves))
    names.sort(key=_rank)
    if len(runs) == 1:
        (curves,) = found.values()
        losses = {"training": next(iter(train.values()))}
        if "validation_loss" in curves:
            losses["validation"] = curves["validation_loss"]
        rest = [name for name in names if name not in ("loss", "validation_loss")]
        return [_panel("loss", losses), *(_panel(name, {said(name): curves[name]}) for name in rest)]
    return [
        _panel("training loss", train),
        *(
            _panel(name, {label: curves[name] for label, curves in found.items() if name in curves})
            for name in names
            if name != "loss"
        ),
    ]


def _rank(name: str) -> int:
    """Losses, then what is judged, then the learning rate, then the rest."""
    if name.endswith("loss"):
        return 0
    return 1 if name.startswith("validation_") else 2 if name == "lr" else 3


def _by_epoch(lines: Sequence[Line]) -> dict[str, Curve]:
    names = dict.fromkeys(
        name
        for line in lines
        for name, value in line.items()
        if isinstance(value, (int, float)) and name not in _NOT_FIGURES
    )
    steps = [line["step"] for line in lines]
    return {name: (steps, [line.get(name) for line in lines]) for name in names}


def _loss_of_steps(lines: Sequence[Line]) -> Curve:
    """Training loss by step where it was kept (`losses`: means over `losses_every` steps), else by epoch."""
    steps: list[int] = []
    values: list[float | None] = []
    ended = 0
    for line in lines:
        losses, every = line.get("losses") or [line.get("loss")], line.get("losses_every", 1)
        # An epoch that was resumed in its middle has kept the losses of its later part only.
        start = max(ended, line["step"] - every * len(losses))
        ended = line["step"]
        steps += [min(start + every * place, ended) for place in range(1, len(losses))] + [ended]
        values += losses
    return steps, values


def _panel(name: str, curves: Mapping[str, Curve]) -> Panel:
    series: list[dict[str, Any]] = []
    for label, curve in curves.items():
        steps, thin = _thinned(*curve)
        series.append({"name": label, "x": steps, "y": [_short(value) for value in thin]})
    values: list[float] = [value for item in series for value in item["y"] if value is not None]
    spread = max(values) / min(values) if values and min(values) > 0 else 0
    return {
        "title": titled(name),
        "x": "step",
        "share": is_share(name),
        "log": "loss" in name and spread > LOG_FROM,
        "series": series,
    }


def _thinned(steps: list[int], values: list[float | None]) -> Curve:
    """At most MAX_POINTS: means of as many consecutive values as it takes."""
    every = math.ceil(len(steps) / MAX_POINTS)
    if every <= 1:
        return steps, values
    thin: list[float | None] = []
    for start in range(0, len(values), every):
        numbers = [value for value in values[start : start + every] if _is_number(value)]
        thin.append(sum(numbers) / len(numbers) if numbers else None)
    ends = [min(start + every, len(steps)) - 1 for start in range(0, len(steps), every)]
    return [steps[end] for end in ends], thin


def _short(value: Any) -> float | None:
    return float(f"{value:.5g}") if _is_number(value) else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)
