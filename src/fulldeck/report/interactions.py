"""What the instructions of a recipe contribute in it, as a matrix: alone on the diagonal, in pairs below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fulldeck.report.effects import difference, difference_text, ratio_text
from fulldeck.report.words import is_share, said


def interaction_matrix(result: Mapping[str, Any]) -> dict[str, Any]:
    """The drawing of what `fulldeck verify --recipe` found: `rows` of cells, `pairs` and `costs` as tables.

    A cell has its `text`, its `title` with the interval, the `verdict` and its `strength` between 0 and 1; it is
    None above the diagonal, and its text a dash where a pair was not measured.
    """
    metric = result["metric"]
    singles = {one["label"]: one for one in result["instructions"]}
    pairs = {frozenset(pair["labels"]): pair for pair in result["pairs"]}
    estimates = [
        abs(found["estimate"])
        for found in (
            *(one[metric] for one in singles.values()),
            *(pair["interaction"] for pair in pairs.values()),
        )
    ]
    most = max(estimates, default=0.0) or 1.0

    def cell(found: Mapping[str, Any], verdict: str, what: str) -> dict[str, Any]:
        text = difference_text(metric, found["estimate"], found["interval"])
        return {
            "text": _short(metric, found["estimate"]),
            "title": f"{what}: {said(metric)} {text}: {verdict}",
            "verdict": verdict,
            "strength": f"{abs(found['estimate']) / most:.2f}",
        }

    rows = []
    for down, (label, single) in enumerate(singles.items()):
        cells: list[dict[str, Any] | None] = []
        for across, other in enumerate(singles):
            pair = pairs.get(frozenset((label, other)))
            if across > down:
                cells.append(None)
            elif across == down:
                cells.append(cell(single[metric], single["verdict"], f"{label} in this recipe"))
            elif pair is None:
                cells.append({"text": "–", "title": f"{other} and {label}: not measured", "verdict": ""})
            else:
                cells.append(cell(pair["interaction"], pair["verdict"], f"{other} and {label}"))
        rows.append((label, cells))
    return {
        "name": result["name"],
        "workload": result["workload"],
        "metric": metric,
        "points": is_share(metric),
        "seeds": result["seeds"],
        "day": result["time"][:10],
        "ended": result["ended"],
        "left_in": result["left_in"],
        "rows": rows,
        "singles": [
            {
                "label": label,
                "effect": difference_text(metric, one[metric]["estimate"], one[metric]["interval"]),
                "verdict": one["verdict"],
                "costs": [
                    (ratio_text(one[figure]["estimate"], one[figure]["interval"]), one[figure]["verdict"])
                    for figure in ("step_time_ms", "artifact_bytes")
                ],
            }
            for label, one in singles.items()
        ],
        "pairs": [
            {
                "labels": pair["labels"],
                "effect": difference_text(
                    metric, pair["interaction"]["estimate"], pair["interaction"]["interval"]
                ),
                "verdict": pair["verdict"],
            }
            for pair in result["pairs"]
        ],
    }


def _short(metric: str, value: float) -> str:
    """As `difference`, without the unit: the caption has it."""
    return difference(metric, value).split("\N{NO-BREAK SPACE}")[0]
