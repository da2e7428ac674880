"""Verify: measure what was advised on the user's own recipe, and write the recipe with what pays."""

from __future__ import annotations

import io
import math
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from fulldeck.diagnosis.advice import adding
from fulldeck.errors import BadInput, RunFailed
from fulldeck.evidence.measurement import (
    BASELINE,
    CONTROL,
    INTERRUPTED,
    TREATMENT,
    Rounds,
    Setting,
    deadline,
    in_rounds,
)
from fulldeck.evidence.statistics import MARGIN, Verdict, judge, noisy
from fulldeck.evidence.verify import verify
from fulldeck.files import write_text
from fulldeck.recipe.recipe import PATHS, Recipe

OF_TRAINING = frozenset({"step_time", "peak_memory", "steps_to_target"})
"""Predicted figures that are verified; the others need a finished model."""
NEAR = 0.1
"""A prediction that is off by more than this share of what was measured was missed."""
METRIC = "step_time"


def improve(
    recipe: Recipe,
    source: Path,
    result: dict[str, Any],
    output: Path,
    *,
    budget: float | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """`result` of `diagnose` with what measuring its advice came to; `recipe` is that in the file `source`.

    Each candidate is measured against the recipe as it is, and kept if it helps and costs nothing that its
    evidence names; then all that are kept, together. If they help, `output` is `source` with them. `budget`
    in seconds is shared out evenly. Ctrl-C ends it and keeps what is there. Raises BadInput, RunFailed.
    """
    candidates = [one for one in result["advice"] if _to_verify(one)]
    share = None if budget is None else budget / (len(candidates) + 1)
    found: dict[str, Any] = {"status": "finished", "kept": [], "output": None, "metric": METRIC}
    try:
        for item in candidates:
            item["verified"] = _verified(item, recipe, share, tell)
        found |= _together(recipe, candidates, share, tell)
    except KeyboardInterrupt:
        found["status"] = "interrupted"
    kept = [item for item in candidates if item["name"] in found["kept"]]
    if kept and found.get("verdict") == "helps":
        write_text(output, recipe_with(source, recipe, kept, found, output))
        found["output"] = str(output)
    return result | {"improvement": found}


def _to_verify(item: dict[str, Any]) -> bool:
    return item["blocked"] is None and item["figure"] in OF_TRAINING


def _verified(
    item: dict[str, Any], recipe: Recipe, budget: float | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    try:
        measured = verify(
            item["name"],
            recipe=adding(recipe, item),
            budget=budget,
            tell=lambda text: tell(f"{item['name']}: {text}"),
        )
    except (BadInput, RunFailed) as error:
        # It may refuse to act on this model; the recipe itself has just run.
        return {
            "verdict": "not measured",
            "reason": str(error),
            "kept": False,
            "missed": None,
            "not_measured": [],
        }
    if measured["status"] == "interrupted":
        raise KeyboardInterrupt
    hurt = [cost["metric"] for cost in measured["costs"] if cost["verdict"] == "hurts"]
    ratio = measured.get("ratio") if measured["metric"] == item["figure"] else None
    return {
        "verdict": measured["verdict"],
        "metric": measured["metric"],
        "ratio": ratio,
        "interval": measured["interval"] if all(map(math.isfinite, measured["interval"])) else None,
        "rounds": measured["rounds"],
        "kept": measured["verdict"] == "helps" and not hurt,
        "missed": None if ratio is None else abs(item["predicted"] / ratio - 1) > NEAR,
        "reason": f"it hurts {', '.join(hurt)}" if hurt else measured.get("reason"),
        "costs": measured["costs"],
        "not_measured": measured["not_measured"],
    }


def _together(
    recipe: Recipe, candidates: list[dict[str, Any]], budget: float | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """All that helps at once; where they do not help together, the best alone."""
    kept = sorted(
        (one for one in candidates if one["verified"]["kept"]), key=lambda one: one["verified"]["ratio"] or 1
    )
    if not kept:
        return {"kept": []}
    if len(kept) > 1:
        combined = recipe
        for item in kept:
            combined = adding(combined, item)
        measured = _combination(recipe, combined, budget, lambda text: tell(f"all together: {text}"))
        if measured["verdict"] == "helps":
            return {"kept": [item["name"] for item in kept], **measured}
    best = kept[0]["verified"]
    figures = {name: best[name] for name in ("metric", "ratio", "interval", "rounds", "verdict")}
    return {"kept": [kept[0]["name"]], **figures}


def _combination(
    recipe: Recipe, combined: Recipe, budget: float | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    def decide(rounds: Rounds) -> Verdict:
        if noisy(rounds.ratio(CONTROL)):
            return "inconclusive"
        return judge(rounds.ratio(TREATMENT), neutral=1.0, margin=MARGIN, better="lower")

    setting = Setting(Path(tempfile.mkdtemp(prefix="fulldeck-diagnose-")), deadline(budget), tell=tell)
    try:
        rounds = in_rounds({BASELINE: recipe, TREATMENT: combined}, "steps", setting, decide)
    except RunFailed as error:  # what works alone need not work together
        return {"verdict": "not measured", "reason": str(error)}
    if rounds.ended == INTERRUPTED:
        raise KeyboardInterrupt
    if not rounds.may_tell(setting.looks):
        return {"verdict": "inconclusive"}
    effect = rounds.ratio(TREATMENT)
    return {
        "metric": METRIC,
        "ratio": effect.estimate,
        "interval": [effect.low, effect.high],
        "rounds": rounds.count,
        "verdict": decide(rounds),
    }


def recipe_with(
    source: Path, recipe: Recipe, kept: list[dict[str, Any]], found: dict[str, Any], output: Path
) -> str:
    """The text of `source`, its lines and comments as they are, with the kept instructions at the end of its
    list; each has what was predicted and measured beside it. Paths are put right for where `output` lies."""
    text = source.read_text()
    yaml = YAML()
    yaml.width = 4096
    dash = re.search(r"^instructions:.*\n(?:\s*(?:#.*)?\n)*( *)- ", text, re.MULTILINE)
    offset = len(dash[1]) if dash else 2
    yaml.indent(mapping=2, sequence=offset + 2, offset=offset)
    value = yaml.load(text)
    _put_paths_right(value, recipe, source, output)
    if not value.get("instructions"):
        value["instructions"] = yaml.load("[]")
    entries = value["instructions"]
    entries.fa.set_block_style()
    for item in kept:
        entries.append({item["name"]: item["parameters"]} if item["parameters"] else item["name"])
        entries.yaml_add_eol_comment(_beside(item), key=len(entries) - 1)
    stream = io.StringIO()
    yaml.dump(value, stream)
    low, high = found["interval"]
    names = " and ".join(item["name"] for item in kept)
    return (
        f"{stream.getvalue().rstrip()}\n"
        f"# fulldeck diagnose: {names} against {source.name}: {found['metric']} {found['ratio']:.2f}x "
        f"({low:.2f} to {high:.2f}, {found['rounds']} rounds)\n"
    )


def _beside(item: dict[str, Any]) -> str:
    measured = item["verified"]
    said = f"predicted {item['figure']} {item['predicted']:.2f}x"
    if measured["ratio"] is None:
        return f"{said}, measured {measured['metric']}: {measured['verdict']}"
    low, high = measured["interval"]
    return f"{said}, measured {measured['ratio']:.2f}x ({low:.2f} to {high:.2f})"


def _put_paths_right(value: Any, recipe: Recipe, source: Path, output: Path) -> None:
    """A path beside the recipe is meant from the recipe's folder, and this one may lie in another."""
    if source.parent.resolve() == output.parent.resolve() or not isinstance(value["workload"], dict):
        return
    for key in PATHS:
        place = getattr(recipe.workload, key, None)
        if isinstance(place, str) and Path(place).exists():
            value["workload"][key] = os.path.relpath(place, output.parent)


def check_output(output: Path, *, force: bool) -> None:
    """Raises BadInput, before anything is measured, if `output` exists (without `force`) or cannot be written."""
    if output.exists() and not force:
        raise BadInput(f"{output} exists; write --force to replace it, or choose another with --output")
    if output.is_dir():
        raise BadInput(f"{output} is a folder; --output takes a file")
    folder = output.parent
    if not folder.is_dir():
        raise BadInput(f"{output} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise BadInput(f"{output} cannot be written: {folder} is read-only")
