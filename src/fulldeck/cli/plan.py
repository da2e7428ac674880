"""`fulldeck plan RECIPE`: the instructions in order with the reason for each place, or all problems."""

from __future__ import annotations

from fulldeck.cli.output import Json, write_json, write_table
from fulldeck.cli.run import Recipe, Settings

EXAMPLE = "fulldeck plan digits --set instructions.lr_scheduler.optional=true"

WHEN = {"prepare": "data", "attach": "training", "optimise": "conversion", "configure": "server"}
"""What is worked on when a door of an instruction is opened."""


def command(recipe: Recipe, settings: Settings = [], json: Json = False) -> None:  # noqa: B006
    """Show the order of a recipe's instructions.

    Each stands with when it acts and the reason for its place; one that the recipe calls
    optional and that cannot act here is shown as skipped. If the recipe cannot be run, every problem is
    named at once, with file and line. Nothing is read but the recipe.
    """
    from fulldeck.pipeline import situation
    from fulldeck.planner import make_plan
    from fulldeck.recipe import read_recipe

    checked = read_recipe(recipe, settings)
    plan = make_plan(checked, situation(checked))
    if json:
        write_json({"recipe": checked.resolved(), "steps": [step.to_json() for step in plan.steps]})
        return
    rows = [
        (
            f"{step.instruction.card.number:02d}",
            step.label,
            ", ".join(WHEN[door] for door in step.instruction.doors()),
            "; ".join(step.reasons) if step.skipped is None else f"skipped: {step.skipped}",
        )
        for step in plan.steps
    ]
    write_table(("no", "instruction", "when", "why here"), rows)
