"""What the page of a search says: the answer first, what it costs elsewhere, what mattered, and all that was tried."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fulldeck.figures import duration
from fulldeck.report.drawings import trade_off
from fulldeck.report.effects import difference, difference_text, ratio_text, times
from fulldeck.report.forest import Effect, forest
from fulldeck.report.headline import Tile
from fulldeck.report.words import is_share, said, shown, titled

Result = Mapping[str, Any]
OTHER = "train_seconds"
"""The second figure of a trade-off where the goal names one only."""
MATTERS = 0.005
"""Shares of importance below this are not listed."""


def tuning_content(result: Result) -> dict[str, Any]:
    """The variables of tuning.html, from a result (see fulldeck.tuning.tune)."""
    name = result["goal"].split()[1]
    best = result["best"]
    return {
        "result": result,
        "name": name,
        "best": best,
        "sentence": _sentence(result, name),
        "tiles": _tiles(result, name),
        "recipe": _text(best),
        "forest_plot": _forest(result, name),
        "conditions": best["conditions"] if best else [],
        "trade_off": _trade_off(result, name),
        "columns": _columns(result, name),
        "pareto": [_row(one, _columns(result, name)) for one in result["pareto"]],
        "importances": [
            (key, f"{100 * share:.1f}", shown("share", share, 0))
            for key, share in result["importances"].items()
            if share >= MATTERS
        ],
        "tried": [_row(one, _columns(result, name)) for one in result["tried"]],
    }


def _sentence(result: Result, name: str) -> str:
    best, baseline = result["best"], result["baseline"]
    if best is None:
        return "Nothing was measured again before the time was over, so there is no answer yet."
    own = f"{titled(name)} {shown(name, best['metrics'][name])}{_ends(name, best['intervals'][name])}"
    if not result["satisfied"]:
        return f"Nothing that was tried is shown to meet the goal. What comes nearest: {own}."
    if best["trial"] == 0:
        return f"Nothing that was tried is better than the recipe as it is: {own}."
    there = shown(name, baseline["metrics"][name])
    return f"{own}, where the recipe as it is has {there}."


def _ends(name: str, interval: Sequence[float] | None) -> str:
    if interval is None:
        return ""
    return f" ({shown(name, interval[0])} to {shown(name, interval[1])})"


def _tiles(result: Result, name: str) -> list[Tile]:
    best, baseline = result["best"], result["baseline"]
    tiles = []
    if best is not None:
        for figure in _named(result, name):
            note = f"recipe as it is: {shown(figure, baseline['metrics'][figure])}"
            gain = ""
            if figure == name and best["trial"] != 0:
                estimate = best["gain"]["estimate"]
                gain = times(estimate) if best["gain"]["ratio"] and not is_share(name) else difference(
                    figure, best["metrics"][figure] - baseline["metrics"][figure]
                )  # fmt: skip
            tiles.append(Tile(titled(figure), shown(figure, best["metrics"][figure]), note, gain))
    note = f"{result['trainings']} trainings, {result['reused']} trials re-used one"
    tiles.append(Tile("Tried", str(result["trials"]), note))
    tiles.append(Tile("Took", duration(result["seconds"]), f"of {duration(result['budget'])}"))
    return tiles


def _named(result: Result, name: str) -> list[str]:
    """The figures of the goal, the objective first."""
    return list(dict.fromkeys([name, *(text.split()[0] for text in result["subject_to"])]))


def _columns(result: Result, name: str) -> list[str]:
    named = _named(result, name)
    return named if len(named) > 1 else [*named, OTHER]


def _text(best: Mapping[str, Any] | None) -> str:
    if best is None:
        return ""
    try:
        return Path(best["recipe"]).read_text()
    except OSError:
        return ""


def _forest(result: Result, name: str) -> dict[str, Any] | None:
    """The finalists against the recipe as it is."""
    finalists = [
        one for one in result["finalists"] if one["trial"] != 0 and one["gain"]["interval"] is not None
    ]
    if not finalists:
        return None
    ratios = all(one["gain"]["ratio"] for one in finalists) and not is_share(name)
    effects = []
    for one in finalists:
        estimate, ends = one["gain"]["estimate"], one["gain"]["interval"]
        if not ratios and one["gain"]["ratio"]:
            # Of shares a difference says more.
            base = result["baseline"]["metrics"][name]
            estimate, ends = base * (estimate - 1), [base * (end - 1) for end in ends]
        text = ratio_text(estimate, ends) if ratios else difference_text(name, estimate, ends)
        good = estimate < (1.0 if ratios else 0.0)
        if result["goal"].startswith("maximize"):
            good = not good
        neutral = 1.0 if ratios else 0.0
        verdict = "inconclusive" if ends[0] <= neutral <= ends[1] else "helps" if good else "hurts"
        effects.append(
            Effect(
                label=f"trial {one['trial']}",
                note="meets the goal" if one["satisfied"] else "is not shown to meet the goal",
                text=text,
                verdict=verdict,
                estimate=estimate,
                interval=(ends[0], ends[1]),
            )
        )
    what = "over" if ratios else "minus"
    title = f"{titled(name)} {what} that of the recipe as it is, the same seeds"
    return forest(title, effects, ratios=ratios, share=is_share(name))


def _trade_off(result: Result, name: str) -> dict[str, Any] | None:
    across = _columns(result, name)[1]

    def place(figures: Mapping[str, float]) -> tuple[float, float]:
        return figures[across], figures[name]

    ended = [one for one in result["tried"] if one["state"] == "finished"]
    if len(ended) < 2:
        return None
    marked = [place(one["figures"]) for one in ended if one["trial"] == 0]
    front = [place(one["figures"]) for one in result["pareto"]]
    drawn = trade_off([place(one["figures"]) for one in ended], front, marked)
    return drawn | {"across": said(across), "up": said(name)}


def _row(one: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    figures = one["figures"] or {}
    values = [figures.get(name) for name in columns]
    texts = [
        shown(name, v) if v is not None and math.isfinite(v) else "–"
        for name, v in zip(columns, values, strict=True)
    ]
    changes = [f"{key}: {json.dumps(value)}" for key, value in one["changes"].items()]
    return {**one, "texts": texts, "changed": changes}
