"""`fulldeck init`: look at a user's data and write a first recipe for them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fulldeck.cli.output import Json, write_json, write_text
from fulldeck.errors import BadInput

if TYPE_CHECKING:
    from fulldeck.preview.first_recipe import FirstRecipe
    from fulldeck.preview.inspection import Inspection

EXAMPLE = "fulldeck init --data photos/ --goal small --yes"

Task = Literal["classification", "regression", "language_model"]
Aim = Literal["balanced", "accurate", "fast", "small"]


def command(
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="A folder with a folder of images for each class, an .npz, CSV, parquet or text file, a "
            "folder of texts, or digits.",
        ),
    ] = None,
    task: Annotated[
        Task | None,
        typer.Option(
            metavar="TASK",
            help="What to learn: classification, regression or language_model; left out: told by the data.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="What to predict; left out: told by the columns' names."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A Hugging Face model to fine-tune on texts: a folder, or its name on the hub; left out: a "
            "small model of fulldeck's own.",
        ),
    ] = None,
    goal: Annotated[
        Aim | None,
        typer.Option(
            metavar="GOAL", help="What matters most: balanced, accurate, fast or small; left out: balanced."
        ),
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(
            metavar="PROFILE",
            help="The machine: auto is this one; else a hardware profile such as nvidia-a100, or a .toml file.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("recipe.yaml"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take what is inferred.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a recipe that is there.")] = False,
    json: Json = False,
) -> None:
    """Write a first recipe for your data.

    Asks what is not given, on a terminal. Looks at all of the data, and writes a recipe that runs as it is,
    with a comment that says why each line is there; and the schema by which editors complete it.
    """
    if out.exists() and not force:
        raise BadInput(f"{out} exists already; choose another with --out, or replace it with --force")
    if not out.parent.is_dir():
        raise BadInput(f"{out.parent} is not a folder; make it first, or choose another with --out")
    ask = not yes and not json and sys.stdin.isatty()
    if not ask and not yes and None in (data, goal):
        absent = ["--data PATH"] * (data is None) + ["--yes (or --goal GOAL)"] * (goal is None)
        raise BadInput(f"there is no terminal to ask on; give {' and '.join(absent)}")
    if data is None:
        if not ask:
            raise BadInput("--yes takes what is inferred, but not the data; give --data PATH")
        data = str(typer.prompt("Data (a folder, a file, or digits)"))

    from fulldeck.instruction import GOALS
    from fulldeck.preview.first_recipe import write_first_recipe
    from fulldeck.preview.inspection import inspect_data
    from fulldeck.recipe.schema import SCHEMA

    seen = inspect_data(data, task, target, model)
    if ask:
        _say(seen)
        seen = _asked(seen, data, task, target)
        goal = goal or _choose("Goal", GOALS, "balanced")
        hardware = hardware or _machine()
    elsewhere = hardware not in (None, "auto")
    written = write_first_recipe(seen, goal or "balanced", out, hardware or "auto")
    schema = out.parent / SCHEMA
    _write(out, written.text, schema)
    next_steps = [f"fulldeck plan {out}"] if elsewhere else [f"fulldeck explain {out}", f"fulldeck run {out}"]
    if json:
        write_json(
            {
                "recipe": out,
                "schema": schema,
                "workload": seen.settings,
                "task": seen.data.task,
                "goal": goal or "balanced",
                "hardware": hardware or "auto",
                "facts": seen.facts,
                "instructions": [step.label for step in written.plan.steps],
                "left_out": written.left_out,
                "next": next_steps,
            }
        )
        return
    if not ask:
        _say(seen)
    _tell(written, out)
    typer.echo("\nNext:\n" + "\n".join(f"  {step}" for step in next_steps))


def _say(seen: Inspection) -> None:
    write_text(f"{seen.data.name}: {seen.workload.kind}, {seen.data.task}")
    for fact in seen.facts:
        write_text(fact, indent="  ", hanging="  ")


def _asked(seen: Inspection, data: str, task: Any, target: str | None) -> Inspection:
    """`seen`, or what is seen after the user chose another task or target."""
    from fulldeck.preview.inspection import inspect_data

    if "path" not in seen.settings or Path(data).is_dir():
        return seen
    if seen.workload.kind == "table" and target is None:
        target = typer.prompt("Column to predict (empty: as seen)", default="", show_default=False) or None
        if target is not None:
            seen = inspect_data(data, task, target)
            _say(seen)
    if seen.workload.kind == "table" and task is None:
        chosen = _choose("Task", ("classification", "regression"), seen.data.task)
        if chosen != seen.data.task:
            seen = inspect_data(data, chosen, target)
            _say(seen)
    return seen


def _machine() -> str:
    from fulldeck.hardware import find_profile

    while True:
        answer = str(
            typer.prompt("Machine (auto: this one; or a profile such as nvidia-a100)", default="auto")
        )
        try:
            if answer != "auto":
                find_profile(answer)
        except BadInput as error:
            write_text(str(error))
        else:
            return answer


def _choose(what: str, choices: Any, default: str) -> Any:
    for name in choices if isinstance(choices, dict) else ():
        write_text(f"{name}: {choices[name]}", indent="  ", hanging="  ")
    while True:
        answer = typer.prompt(f"{what} ({', '.join(choices)})", default=default)
        if answer in choices:
            return answer
        typer.echo(f"{answer} is none of {', '.join(choices)}")


def _write(out: Path, text: str, schema: Path) -> None:
    from fulldeck.files import write_json as write_file
    from fulldeck.files import write_text as write_file_text
    from fulldeck.recipe.schema import recipe_schema

    write_file(schema, recipe_schema())
    write_file_text(out, text)


def _tell(written: FirstRecipe, out: Path) -> None:
    names = ", ".join(step.label for step in written.plan.steps)
    write_text(f"{out}: {len(written.plan.steps)} instructions: {names}", hanging="  ")
    for name, reason in written.left_out.items():
        write_text(f"left out: {name}, which {reason}", indent="  ", hanging="  ")
