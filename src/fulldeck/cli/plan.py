"""`fulldeck plan RECIPE`: the instructions in order with the reason for each place, or all problems."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fulldeck.cli.output import Json, write_json, write_table, write_text
from fulldeck.cli.run import Recipe, Settings

if TYPE_CHECKING:
    from fulldeck.planner import Plan
    from fulldeck.recipe.recipe import Recipe as Checked

EXAMPLE = "fulldeck plan digits --set instructions.lr_scheduler.optional=true"

WHEN = {"prepare": "data", "attach": "training", "optimise": "conversion", "configure": "server"}
"""What is worked on when a door of an instruction is opened."""
NOT_CHECKED = "its drivers, its engines and its speed; the extras that are installed there"


def command(
    recipe: Recipe,
    settings: Settings = [],  # noqa: B006
    hardware: Annotated[
        str | None,
        typer.Option(
            metavar="PROFILE",
            help="Plan for another machine: a hardware profile such as nvidia-a100, or a .toml file. Also says "
            "whether the training fits into its memory.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show the order of a recipe's instructions.

    Each stands with when it acts and the reason for its place; one that the recipe calls
    optional and that cannot act here is shown as skipped. If the recipe cannot be run, every problem is
    named at once, with file and line. Nothing is read but the recipe; for a machine that it names, the
    data are read too, and two steps are trained here to count their memory.
    """
    from fulldeck.pipeline.run import situation
    from fulldeck.planner import make_plan
    from fulldeck.recipe.reader import read_recipe

    named = [] if hardware is None else [f"hardware={hardware}"]
    checked = read_recipe(recipe, [*settings, *named])
    if checked.profile is None:
        plan = make_plan(checked, situation(checked))
        elsewhere = None
    else:
        plan, elsewhere = _elsewhere(recipe, settings, checked)
    if json:
        steps = [step.to_json() for step in plan.steps]
        write_json({"recipe": checked.resolved(), "steps": steps, "hardware": elsewhere})
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
    if elsewhere is not None:
        _write_elsewhere(elsewhere)


def _elsewhere(recipe: str, settings: list[str], there: Checked) -> tuple[Plan, dict[str, Any]]:
    """The plan for the machine of a profile, what the profile gave to it, and whether the training fits."""
    from fulldeck.instruction import Situation
    from fulldeck.pipeline.run import situation
    from fulldeck.planner import make_plan
    from fulldeck.preview.memory_need import memory_need
    from fulldeck.recipe.reader import read_recipe

    profile = there.profile
    assert profile is not None
    workload = there.workload
    plan = make_plan(
        there, Situation(workload.data_kind, workload.task, profile.device, frozenset(profile.dtypes))
    )
    own = read_recipe(recipe, [*settings, "hardware=auto", "train.device=auto"])
    taken = {
        f"{entry.instruction.card.name}.{key}": value
        for entry, before in zip(there.entries, own.entries, strict=True)
        for key, value in profile.parameters(entry.instruction.card.name).items()
        if key not in before.instruction.model_fields_set
    }
    # What cannot act on this machine may well act on that one.
    counted = replace(own, entries=tuple(replace(entry, optional=True) for entry in own.entries))
    need = memory_need(counted)
    idle = [step.label for step in make_plan(counted, situation(counted)).steps if step.skipped is not None]
    not_checked = NOT_CHECKED
    if idle:
        not_checked += f"; what {' and '.join(idle)} would change of the memory, which cannot act here"
    return plan, {
        "profile": profile.name,
        "title": profile.title,
        "device": profile.device,
        "taken": taken,
        "not_checked": not_checked,
        "memory": need.to_json(),
        "memory_limit": profile.memory_bytes,
        "fits": None if profile.memory_bytes is None else need.peak <= profile.memory_bytes,
    }


def _write_elsewhere(found: dict[str, Any]) -> None:
    from fulldeck.figures import size
    from fulldeck.preview.memory_need import MEANING

    typer.echo(f"\nFor {found['title']}")
    taken = ", ".join(f"{name}: {value}" for name, value in found["taken"].items())
    write_text(f"taken from its profile: {taken or 'nothing'}", indent="  ", hanging="  ")
    write_text(f"could not be checked here: {found['not_checked']}", indent="  ", hanging="  ")
    for kind, meaning in MEANING.items():
        write_text(f"{size(found['memory'][kind]):>9}  {meaning}", indent="  ", hanging=" " * 11)
    limit = found["memory_limit"]
    if limit is None:
        write_text("its profile does not say how much memory it has", indent="  ", hanging="  ")
    else:
        verdict = "fits into" if found["fits"] else "does not fit into"
        share = found["memory"]["peak"] / limit
        words = f"the training {verdict} its {size(limit)} ({share:.0%})"
        if not found["fits"]:
            words += "; train.micro_batch, dynamic_batch_scheduler and gradient_checkpointing need less"
        write_text(words, indent="  ", hanging="  ")
