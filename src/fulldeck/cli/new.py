"""`fulldeck new NAME`: a new instruction that passes the contract suite from the first minute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fulldeck.cli.output import Json, write_json

EXAMPLE = "fulldeck new label_smoothing --stage training"


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The instruction's name, in snake_case.")],
    stage: Annotated[
        str, typer.Option(help="Where it acts: data, training, inference or deployment.")
    ] = "training",
    into: Annotated[Path, typer.Option(help="Where the plugin's folder is made.")] = Path(),
    built_in: Annotated[
        bool, typer.Option("--built-in", help="In a checkout of fulldeck: one of its own, not a plugin.")
    ] = False,
    number: Annotated[int | None, typer.Option(help="Its number; left out: the next free one.")] = None,
    json: Json = False,
) -> None:
    """Write a new instruction, as a plugin.

    It does something small, with tests that pass; replace what it does.
    """
    from fulldeck.scaffold import write_built_in, write_plugin

    if built_in:
        folder, files = write_built_in(name, stage, into, number)
        steps = [f"ruff check --fix {files[1]}", "python -m fulldeck.generate", f"pytest {files[1]}"]
    else:
        folder, files = write_plugin(name, stage, into, number)
        steps = [f"pip install -e {folder}", f"pytest {folder}", f"fulldeck show {name}"]
    if json:
        write_json({"folder": folder, "files": files})
        return
    for file in files:
        typer.echo(folder / file)
    typer.echo("\nNext:\n" + "\n".join(f"  {step}" for step in steps))
