"""Recipes: what one may hold, from the declarations; those that are shipped; examples of a factory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from instruction_page import parameters

from fulldeck.catalogue import FILE

RECIPES = Path(__file__).parents[1] / "recipes"
EXAMPLES = Path(__file__).parents[1] / "examples"


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


def example(name: str) -> str:
    """A factory of `examples/` with its recipe."""
    code, recipe = EXAMPLES / f"{name}.py", EXAMPLES / f"{name}.yaml"
    return (
        "<!-- parsed only: tests/examples runs it -->\n"
        f'```python title="examples/{code.name}"\n{code.read_text()}```\n\n'
        f'```yaml title="examples/{recipe.name}"\n{recipe.read_text()}```'
    )
