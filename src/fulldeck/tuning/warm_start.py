"""What to try first: what a diagnosis of the recipe advises, and what evidence on this machine has shown to help."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fulldeck.diagnosis.diagnose import FILE, recipe_hash
from fulldeck.errors import BadInput
from fulldeck.evidence.store import kept
from fulldeck.machine import processor
from fulldeck.recipe.recipe import Recipe
from fulldeck.tuning.space import MOVED_BY, QUALITY, Space, Values


def first_trials(
    space: Space, objective: str, *, evidence: Path, diagnosis: dict[str, Any] | None
) -> list[tuple[Values, str]]:
    """Decisions, each with where it comes from: the recipe with one instruction more, the largest effect first."""
    found: list[tuple[float, Values, str]] = []
    if diagnosis is not None:
        found += _advised(space, objective, diagnosis)
    found += _shown(space, objective, evidence)
    found.sort(key=lambda one: one[0])
    return [(values, origin) for _, values, origin in found]


def kept_diagnosis(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The diagnosis of this very recipe's training that lies in `folder`, if it was made on this machine."""
    try:
        result: dict[str, Any] = json.loads((folder / FILE).read_bytes())
        usable = (
            result["recipe_hash"] == recipe_hash(recipe)
            and result["kind"] == "training"
            and result["machine"]["processor"] == processor()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if usable else None


def _advised(space: Space, objective: str, diagnosis: dict[str, Any]) -> Iterator[tuple[float, Values, str]]:
    for item in diagnosis["advice"]:
        if item["blocked"] is not None or not _about(item["figure"], objective):
            continue
        values = space.with_instruction(item["name"], item["parameters"])
        if values is not None:
            said = f"{item['figure']} {item['predicted']:.2f}x"
            yield item["predicted"], values, f"the diagnosis predicts {said} with {item['name']}"


def _shown(space: Space, objective: str, folder: Path) -> Iterator[tuple[float, Values, str]]:
    try:
        results = [result for _, result in kept(folder)]
    except BadInput:
        # A search can do without.
        return
    for result in results:
        if result["verdict"] != "helps" or result["machine"]["processor"] != processor():
            continue
        if not _about(result["metric"], objective):
            continue
        values = space.with_instruction(result["name"], result["parameters"])
        if values is None:
            continue
        ratio = result.get("ratio") or 1.0
        effect = min(ratio, 1 / ratio) if ratio > 0 else 1.0
        yield effect, values, f"evidence on {result['workload']}: {result['name']} helps {result['metric']}"


def _about(metric: str, objective: str) -> bool:
    if objective in MOVED_BY:
        return metric in MOVED_BY[objective]
    return metric == objective or metric in QUALITY
