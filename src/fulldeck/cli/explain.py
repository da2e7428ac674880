"""`fulldeck explain RECIPE`: what a run will do and why, what it will need and leave, in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fulldeck.catalogue import catalogue
from fulldeck.cli.output import Json, write_json, write_text
from fulldeck.cli.run import Recipe, Settings
from fulldeck.figures import duration, milliseconds, size

if TYPE_CHECKING:
    from fulldeck.planner import Step
    from fulldeck.preview.explanation import Explanation

EXAMPLE = "fulldeck explain digits"


def command(
    recipe: Recipe,
    settings: Settings = [],  # noqa: B006
    no_steps: Annotated[
        bool, typer.Option("--no-steps", help="Do not read the data and time no steps.")
    ] = False,
    json: Json = False,
) -> None:
    """Say in plain words what a recipe will do.

    In which order and why, what it reads, what will be in the run folder; and what it will need, told from
    a few real steps: the data are read, the model is built, some steps are timed and multiplied. Nothing
    is kept.
    """
    from fulldeck.pipeline.run import situation
    from fulldeck.planner import make_plan
    from fulldeck.preview.estimate import estimate
    from fulldeck.preview.explanation import Explanation
    from fulldeck.recipe.reader import read_recipe

    checked = read_recipe(recipe, settings)
    plan = make_plan(checked, situation(checked))
    explanation = Explanation(plan, None if no_steps else estimate(checked))
    if json:
        write_json(explanation.to_json())
        return
    typer.echo("What it works on")
    _write_list([explanation.workload, *explanation.facts])
    typer.echo("\nWhat it does, in this order")
    for when, steps in explanation.acting().items():
        write_text(f"{when}:", indent="  ")
        for step in steps:
            _write_step(step)
    typer.echo("\nWhat it needs")
    _write_list(_needs(explanation))
    typer.echo(f"\nWhat it leaves in runs/TIME-{checked.name}/")
    for name, meaning in explanation.files.items():
        write_text(f"{name}: {meaning}", indent="  ", hanging="  ")


def _write_list(sentences: list[str]) -> None:
    for sentence in sentences:
        write_text(sentence, indent="  ", hanging="  ")


def _write_step(step: Step) -> None:
    card = step.instruction.card
    write_text(f"{card.number:02d} {step.label}: {card.title}", indent="    ", hanging="  ")
    if step.skipped is not None:
        write_text(f"skipped: {step.skipped}", indent="      ", hanging="  ")
        return
    if use := catalogue().find(card.name).use_when:
        write_text(f"use when: {use}", indent="      ", hanging="  ")
    for reason in step.reasons:
        write_text(f"its place: {reason}", indent="      ", hanging="  ")


def _needs(explanation: Explanation) -> list[str]:
    found = explanation.estimate
    if found is None:
        return ["not measured (--no-steps)"]
    disk = explanation.disk_bytes
    assert disk is not None
    rest = duration(found.evaluation_seconds + found.checkpoint_seconds)
    return [
        f"time: about {duration(found.seconds)}, an estimate: {found.steps:,} steps of "
        f"{milliseconds(1000 * found.step_seconds)} (the median of {found.timed} real steps on {found.device}), "
        f"{rest} for evaluation and checkpoint after each of {-(-found.steps // found.steps_per_epoch)} epochs, and "
        f"{duration(found.load_seconds)} to read and prepare the data. Conversions, checks and the "
        "rehearsal come on top; another load on this machine changes all of it.",
        f"memory: {size(found.memory_bytes)}, the peak of these steps; the rest of a run may need more",
        f"disk: about {size(disk)}: the model of {found.parameters:,} parameters takes "
        f"{size(found.model_bytes)} in each of its forms, a checkpoint {size(found.checkpoint_bytes)}",
    ]
