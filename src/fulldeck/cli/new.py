"""`fulldeck new NAME`: a plugin package with one instruction that passes the contract suite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fulldeck.cli.output import Json, write_json

EXAMPLE = "fulldeck new label_smoothing --stage training"


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The instruction's name, in snake_case.")],
    stage: Annotated[
        str, typer.Option(help="data, training, inference, deployment or extensions.")
    ] = "training",
    into: Annotated[Path, typer.Option(help="The folder in which the package's folder is made.")] = Path(),
    json: Json = False,
) -> None:
    """Write a plugin with a new instruction."""
    from fulldeck.scaffold import write_plugin

    folder, files = write_plugin(name, stage, into)
    if json:
        write_json({"folder": folder, "files": files})
        return
    for file in files:
        typer.echo(folder / file)
    typer.echo(f"\nNext:\n  pip install -e {folder}\n  pytest {folder}\n  fulldeck show {name}")
