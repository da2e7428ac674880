"""What the page of a diagnosis says: the bottleneck first, then the figures that it follows from, then the advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fulldeck.report.effects import effect_text, ratio_text, times
from fulldeck.report.forest import Effect, forest
from fulldeck.report.headline import Tile
from fulldeck.report.roofline import roofline
from fulldeck.report.waterfall import Bars, waterfall
from fulldeck.report.words import said, shown, titled

Diagnosis = Mapping[str, Any]
WIDE, NARROW = (820, 480), (360, 380)
"""Pixels of the roofline; it is drawn twice, since letters must not shrink with it."""
CLASSES = {
    "data": "waits for data",
    "transfer": "waits for copies to the device",
    "instructions": "waits for its instructions",
    "communication": "communication-bound",
    "optimizer": "optimizer-bound",
    "launch": "launch-bound",
    "memory": "memory-bound",
    "compute": "compute-bound",
    "capacity": "out of memory room",
}
"""What a step is called for its bottleneck."""
BOUNDS = {
    "launch": "starting operators",
    "memory": "moving bytes",
    "compute": "arithmetic",
    "data": "waiting for data",
    "transfer": "copying to the device",
}
"""What a bound is called in the waterfall, where its own name does not say it."""


def diagnosis_content(result: Diagnosis) -> dict[str, Any]:
    """The variables of diagnosis.html, from a diagnosis (see fulldeck.diagnosis.diagnose)."""
    limit = result["bottleneck"]
    operators, ceilings = result["operators"], result["ceilings"]
    memory = result["memory"]
    kinds = {name: value for name, value in (memory or {}).items() if name not in ("peak", "limit")}
    return {
        "result": result,
        "training": result["kind"] == "training",
        "what": WHAT[result["kind"]],
        "limit": limit,
        "limit_name": CLASSES.get(limit["class"], limit["class"]) if limit["clear"] else "no single limit",
        "first": _first(result),
        "tiles": _tiles(result),
        "waterfalls": _waterfalls(result),
        "rooflines": [
            (name, roofline(operators, ceilings, *size))
            for name, size in (("wide", WIDE), ("narrow", NARROW))
        ]
        if operators
        else [],
        "memory": waterfall(
            {said(name): value for name, value in kinds.items()},
            {said(name): shown("bytes", value) for name, value in kinds.items()},
        ),
        "advice": [_advice(item, place) for place, item in enumerate(result["advice"], 1)],
        "forest_plot": _forest(result),
    }


WHAT = {"training": "a training step", "inference": "a forward pass"}


def _waterfalls(result: Diagnosis) -> list[tuple[str, str, Bars]]:
    """Title, what the bars are, and the bars: of a step by phase and by limit, of a pass by limit for each batch."""
    step = result["step"]
    if result["kind"] == "training":
        phases = waterfall(step["phases"], _milliseconds(step["phases"], step["milliseconds"]))
        return [("By phase", "phase", phases), ("By what limits it", "limit", _by_limit(step))]
    return [
        (f"{rows} row{'s' if rows != '1' else ''} at once", "limit", _by_limit(one))
        for rows, one in result["batches"].items()
    ]


def _by_limit(one: Mapping[str, Any]) -> Bars:
    shares = {BOUNDS.get(name, name): share for name, share in one["bounds"].items()}
    return waterfall(
        shares, _milliseconds(shares, one["milliseconds"]), max(shares, key=lambda name: shares[name])
    )


def _milliseconds(shares: Mapping[str, float], ms: float) -> dict[str, str]:
    return {name: shown("step_ms", share * ms) for name, share in shares.items()}


def _first(result: Diagnosis) -> str:
    """What came of measuring the advice, else what to try first; empty where there is neither."""
    improvement = result.get("improvement")
    if improvement is not None:
        if improvement["output"] is None:
            early = (
                "Measuring was interrupted, and so far n" if improvement["status"] == "interrupted" else "N"
            )
            return f"{early}othing of what was advised was shown to pay."
        return (
            f"Measured: with {_listed(improvement['kept'])}, {said(improvement['metric'])} is "
            f"{ratio_text(improvement['ratio'], improvement['interval'])} what it was."
        )
    best = _best(result)
    if best is None:
        return ""
    return f"To try first: {best['name']}, predicted {said(best['figure'])} {times(best['predicted'])}."


def _best(result: Diagnosis) -> Mapping[str, Any] | None:
    """The first advice that can be followed; one that eases the bottleneck goes before."""
    free = [item for item in result["advice"] if item["blocked"] is None]
    easing = [item for item in free if result["bottleneck"]["class"] in item["eases"]]
    return next(iter(easing or free), None)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "nothing"


def _tiles(result: Diagnosis) -> list[Tile]:
    ms, limit, memory = result["step"]["milliseconds"], result["bottleneck"], result["memory"]
    threads = f", {result['threads']} thread{'s' if result['threads'] != 1 else ''}"
    where = f"{result['workload']} on {result['device']}{threads if result['device'] == 'cpu' else ''}"
    tiles = [Tile(titled(WHAT[result["kind"]]), shown("step_ms", ms), where)]
    if limit["share"] is not None:
        of = (
            "of the memory is in use"
            if limit["class"] == "capacity"
            else "of it is " + BOUNDS.get(limit["class"], limit["class"])
        )
        tiles.append(Tile("Largest limit", shown("share", limit["share"], 0), of))
    if memory is not None:
        share = shown(
            "share", memory["peak"] / memory["limit"], 0 if memory["peak"] > 0.1 * memory["limit"] else 1
        )
        tiles.append(
            Tile(
                "Memory",
                shown("bytes", memory["peak"]),
                f"most in use at once, {share} of {shown('bytes', memory['limit'])}",
            )
        )
    if (tile := _gain(result)) is not None:
        tiles.append(tile)
    return tiles


def _gain(result: Diagnosis) -> Tile | None:
    """What all that pays comes to, or the best prediction."""
    improvement = result.get("improvement")
    if improvement is not None and improvement["output"] is not None:
        low, high = improvement["interval"]
        note = f"{said(improvement['metric'])}, measured ({times(low)} to {times(high)})"
        return Tile("With what pays", times(improvement["ratio"]), note)
    best = _best(result)
    if improvement is not None or best is None:
        return None
    return Tile(
        "Best prediction",
        times(best["predicted"]),
        f"{said(best['figure'])} with {best['name']}, not measured yet",
    )


def _advice(item: Mapping[str, Any], place: int) -> dict[str, Any]:
    """An advice with how it is written, and what measuring it came to."""
    verified = item.get("verified")
    return {
        **item,
        "place": place,
        "says": f"{said(item['figure'])} {times(item['predicted'])}",
        "measured": ratio_text(verified["ratio"], verified["interval"])
        if verified and verified.get("ratio") is not None
        else "",
        "spent": [
            f"{said(cost['metric'])} {effect_text(cost)}: {cost['verdict']}"
            for cost in verified.get("costs", [])
        ]
        if verified
        else [],
    }


def _forest(result: Diagnosis) -> dict[str, Any] | None:
    """Predicted and measured beside each other; None before anything was measured."""
    effects = [
        Effect(
            label=item["name"],
            note=f"{said(item['figure'])}, predicted {times(item['predicted'])}",
            text=ratio_text(one["ratio"], one["interval"]),
            verdict=one["verdict"],
            estimate=one["ratio"],
            interval=(one["interval"][0], one["interval"][1]),
            before=item["predicted"],
        )
        for item in result["advice"]
        if (one := item.get("verified")) and one.get("ratio") is not None
    ]
    improvement = result.get("improvement") or {}
    if improvement.get("ratio") is not None:
        effects.append(
            Effect(
                label="all that is kept",
                note=f"{said(improvement['metric'])}, together",
                text=ratio_text(improvement["ratio"], improvement["interval"]),
                verdict=improvement["verdict"],
                estimate=improvement["ratio"],
                interval=(improvement["interval"][0], improvement["interval"][1]),
            )
        )
    return forest("Ratio to the recipe as it was, less is better", effects, ratios=True) if effects else None
