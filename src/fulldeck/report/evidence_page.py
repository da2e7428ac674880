"""What the page of measurements says: what has been shown on which machine, and what depends on what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fulldeck.report.effects import claimed, effect_text, measured
from fulldeck.report.forest import Effect, forest
from fulldeck.report.interactions import interaction_matrix
from fulldeck.report.words import is_share, said, titled

Result = Mapping[str, Any]
VERDICTS = {
    "helps": "helps",
    "no difference": "makes no difference",
    "hurts": "hurts",
    "inconclusive": "is undecided",
}
"""What is said of an instruction, in this order."""


def evidence_content(
    results: Sequence[Result], contributions: Sequence[Result], refusals: Sequence[Result] = ()
) -> dict[str, Any]:
    """The variables of evidence.html, from kept results, what `fulldeck verify --recipe` kept, and refusals."""
    return {
        "sentence": _sentence(results),
        "forests": _forests(results),
        "results": [_line(result) for result in results],
        "unsure": [
            (one["name"], one["workload"], one["reason"])
            for one in (*results, *refusals)
            if one.get("reason")
        ],
        "matrices": [interaction_matrix(result) for result in contributions],
        "machines": _machines([*results, *contributions]),
    }


def _sentence(results: Sequence[Result]) -> str:
    if not results:
        return ""
    count = Counter(result["verdict"] for result in results)
    parts = [f"{words} in {count[verdict]}" for verdict, words in VERDICTS.items() if count[verdict]]
    held = sum(result["claim_holds"] is True for result in results)
    many = "measurement" if len(results) == 1 else "measurements"
    return (
        f"{len(results)} {many} against the same recipe without the instruction: it {', '.join(parts)}. "
        f"What its author claims was reached in {held or 'none'}."
    )


def _forests(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One plot for the ratios of which less is better, one for the others, and one for each metric's differences.

    A figure that stands alone has nothing to be compared with, so it has no place in a plot.
    """
    plots: dict[tuple[bool, str, bool], list[Effect]] = {}
    for result in results:
        for figure in (result, *result["costs"]):
            scale, _, less = claimed(figure["claim"])
            if scale == "alone":
                continue
            what = "Ratios: with it over without it"
            if scale == "difference":
                what = f"{titled(figure['metric'])}: with it minus without it"
            title = f"{what}, {'less' if less else 'more'} is better"
            share = scale == "difference" and is_share(figure["metric"])
            plots.setdefault((scale != "ratio", title, share), []).append(_effect(result, figure))
    return [
        forest(title, effects, ratios=not differences, share=share)
        for (differences, title, share), effects in sorted(plots.items(), key=lambda item: item[0][0])
    ]


def _effect(result: Result, figure: Result) -> Effect:
    scale, bound, _ = claimed(figure["claim"])
    control = figure.get("control")
    low, high = figure["interval"]
    cost = figure is not result
    return Effect(
        label=result["name"],
        note=f"{'cost: ' if cost else ''}{said(figure['metric'])}, {result['workload']}",
        text=effect_text(figure),
        verdict=figure["verdict"],
        estimate=figure[scale],
        interval=(low, high),
        before=bound,
        control=None if control is None else (control["interval"][0], control["interval"][1]),
        beside=cost,
    )


def _line(result: Result) -> dict[str, Any]:
    return {
        "name": result["name"],
        "workload": result["workload"],
        "metric": said(result["metric"]),
        "without": measured(result["metric"], result["baseline"]),
        "with": measured(result["metric"], result["treatment"]),
        "effect": effect_text(result),
        "claim": result["claim"],
        "holds": {True: "holds", False: "does not hold", None: "open"}[result["claim_holds"]],
        "verdict": result["verdict"],
        "rounds": result["rounds"],
        "repeated": result.get("repeated", "rounds"),
        "quick": result["quick"],
        "interrupted": result["status"] == "interrupted",
        "costs": [
            {
                "metric": said(cost["metric"]),
                "effect": effect_text(cost),
                "claim": cost["claim"],
                "verdict": cost["verdict"],
            }
            for cost in result["costs"]
        ],
        "peers": [
            {"name": name, "effect": f"{peer['ratio']:.3g}×"}
            for name, peer in result.get("peers", {}).items()
        ],
        "day": result["time"][:10],
        "machine": machine_name(result["machine"]),
    }


def machine_name(machine: Mapping[str, Any]) -> str:
    """What a figure was measured on, in a few words."""
    threads = f"{machine['threads']} thread{'s' if machine['threads'] != 1 else ''}"
    return str(machine["accelerator"] or f"{machine['processor']}, {threads}")


def _machines(results: Sequence[Result]) -> list[Mapping[str, Any]]:
    """Each machine once, without what changes from minute to minute."""
    found: list[Mapping[str, Any]] = []
    for result in results:
        machine = {name: value for name, value in result["machine"].items() if name != "load"}
        if machine not in found:
            found.append(machine)
    return found
