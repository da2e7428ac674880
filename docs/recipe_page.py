"""The page of recipes: what a recipe may hold, from the declarations, and every recipe that is shipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from instruction_page import parameters

from fulldeck.catalogue import FILE

RECIPES = Path(__file__).parents[1] / "recipes"
INTRODUCTION = Path(__file__).parent / "recipes.md"


def shipped() -> list[Path]:
    """The recipes that come with fulldeck."""
    return sorted(RECIPES.glob("*.yaml"))


def reference() -> str:
    """`train:`, `goal:` and the workloads, with every key that they take."""
    content: dict[str, Any] = json.loads(FILE.read_bytes())
    parts = ["### train", parameters(content["train"]), "### goal", parameters(content["goal"])]
    for name, workload in content["workloads"].items():
        keys = workload["parameters"]
        parts += [
            f"### workload: {name}",
            workload["title"],
            parameters(keys) if keys else "It takes no keys.",
        ]
    return "\n\n".join(parts)


def trackers() -> str:
    """Every tracker, with the keys that it takes."""
    content: dict[str, Any] = json.loads(FILE.read_bytes())
    return "\n\n".join(
        f"### {name}\n\n{parameters(tracker['parameters'])}" for name, tracker in content["trackers"].items()
    )


def texts() -> str:
    """Every shipped recipe as it stands in the repository."""
    return "\n\n".join(
        f'### {path.stem}\n\n```yaml title="recipes/{path.name}"\n{path.read_text()}```' for path in shipped()
    )
