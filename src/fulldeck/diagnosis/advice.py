"""Advise: the catalogue's instructions by the effect that each predicts for itself from the findings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fulldeck.catalogue import catalogue
from fulldeck.diagnosis.findings import Findings
from fulldeck.errors import BadInput
from fulldeck.instruction import Instruction, Prediction
from fulldeck.pipeline.run import situation
from fulldeck.planner import make_plan
from fulldeck.recipe.recipe import Entry, Recipe


def advise(findings: Findings, recipe: Recipe, limit: str) -> list[dict[str, Any]]:
    """What each instruction that is not in `recipe` predicts: first those that ease `limit`, the bottleneck, then
    the others; among them the largest effect first.

    `blocked` says why one cannot be added; those come last.
    """
    there = {entry.instruction.card.name for entry in recipe.entries}
    found = []
    for entry in catalogue():
        cls = entry.load()
        if entry.name not in there and (prediction := cls.predict(findings)) is not None:
            found.append(_item(cls, prediction, recipe))
    return sorted(
        found, key=lambda item: (item["blocked"] is not None, limit not in item["eases"], item["predicted"])
    )


def adding(recipe: Recipe, item: dict[str, Any]) -> Recipe:
    """`recipe` with an advised instruction at its end."""
    cls = catalogue().find(item["name"]).load()
    return replace(recipe, entries=(*recipe.entries, Entry(cls(**item["parameters"]))))


def unaddressed(limit: str, advice: list[dict[str, Any]]) -> bool:
    """Whether nothing that can be added eases `limit`."""
    return not any(limit in item["eases"] for item in advice if item["blocked"] is None)


def _item(cls: type[Instruction], prediction: Prediction, recipe: Recipe) -> dict[str, Any]:
    item = {
        "name": cls.card.name,
        "number": cls.card.number,
        "parameters": dict(prediction.parameters),
        "figure": prediction.figure,
        "predicted": prediction.ratio,
        "reason": prediction.reason,
        "cost": prediction.cost,
        "eases": list(prediction.eases),
    }
    return item | {"blocked": _blocked(recipe, item)}


def _blocked(recipe: Recipe, item: dict[str, Any]) -> str | None:
    added = adding(recipe, item)
    try:
        make_plan(added, situation(added))
    except BadInput as error:
        return "; ".join(str(error).splitlines())
    return None
