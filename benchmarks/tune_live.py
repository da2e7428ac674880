"""`fulldeck tune`, live: what the recipe found does on test data, against the default one.

    python benchmarks/tune_live.py --data DIR [--tasks digits sst2 cifar10] [--budget 4m] [--add]

Each task is one search with the command's own defaults, in a process of its own, for the goal that stands in the
result. `default` and `found` are on test data over the same seeds, which nothing was chosen by, and so is the paired
gain with its 95 % interval; the budget that was given, and the seconds that the command took with it. DIR holds
`sst2.parquet` and `cifar10.parquet`; digits needs none. The default recipe is the workload's own settings with few
epochs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import RESULTS, describe, write_result

NAME = "tune_live"
GOAL = "the recipe found beats the default one; the budget is kept within 10 %"
RECIPES = {
    "digits": """\
workload: digits
train: {epochs: 8, threads: THREADS}
instructions:
  - leakage_safe_splitting
""",
    "sst2": """\
workload: {kind: text, path: DIR/sst2.parquet, text: text, label: label, split: split}
train: {epochs: 3, threads: THREADS}
instructions:
  - leakage_safe_splitting
""",
    "cifar10": """\
workload: {kind: images, path: DIR/cifar10.parquet, image: jpeg, label: label, split: split}
train: {epochs: 1, threads: THREADS}
instructions:
  - leakage_safe_splitting
""",
}
AIMED = "accuracy"


def searched(task: str, folder: Path, budget: str, threads: int) -> dict[str, Any]:
    """One search, and what came out of it."""
    text = RECIPES[task].replace("DIR", str(folder.resolve())).replace("THREADS", str(threads))
    with tempfile.TemporaryDirectory() as place:
        recipe = Path(place) / f"{task}.yaml"
        recipe.write_text(text)
        command = [sys.executable, "-m", "fulldeck", "tune", str(recipe), "--goal", f"maximize {AIMED}"]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--budget", budget, "--json"],
            cwd=place,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - start
    if not done.stdout.strip():
        raise SystemExit(f"{task}: the search ended with exit code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    if result.get("best") is None:
        raise SystemExit(f"{task}: {result.get('error', 'there is no answer')}")
    best, default = result["best"], result["baseline"]
    changes = next(one["changes"] for one in result["tried"] if one["trial"] == best["trial"])
    low, high = best["gain"]["interval"] or (None, None)
    return {
        "default": default["metrics"][AIMED],
        "found": best["metrics"][AIMED],
        "ratio" if best["gain"]["ratio"] else "difference": {
            "median": best["gain"]["estimate"],
            **({} if low is None else {"interval": [low, high]}),
        },
        "seeds": len(best["seeds"]),
        "combinations": result["trials"],
        "to_the_end": sum(one["state"] == "finished" for one in result["tried"]),
        "trainings": result["trainings"],
        "budget_s": result["budget"],
        "seconds": seconds,
        "goal": result["goal"],
        "changes": changes,
        "importances": result["importances"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("."))
    parser.add_argument("--tasks", nargs="+", choices=RECIPES, default=["digits", "sst2"])
    parser.add_argument("--budget", default="4m")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--add", action="store_true", help="go on with the result that there is")
    chosen = parser.parse_args()
    path = RESULTS / f"{NAME}.json"
    tasks: dict[str, Any] = json.loads(path.read_bytes())["tasks"] if chosen.add and path.exists() else {}
    for task in chosen.tasks:
        tasks[task] = searched(task, chosen.data, chosen.budget, chosen.threads) | {"machine": describe()}
        print(f"{task}: {tasks[task]}", flush=True)
        write_result(NAME, {"machine": describe(), "goal": GOAL, "tasks": tasks})


if __name__ == "__main__":
    main()
