"""`fulldeck schema`: the JSON schema of a recipe, so that editors complete and check it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fulldeck.cli.output import Json, write_json

EXAMPLE = "fulldeck schema --out fulldeck.schema.json"


def command(
    out: Annotated[
        Path | None, typer.Option(help="Write it to this file; left out: to standard output.")
    ] = None,
    json: Json = False,
) -> None:
    """Print the JSON schema of a recipe.

    Begin a recipe with this line, and an editor completes and checks it:

    # yaml-language-server: $schema=fulldeck.schema.json
    """
    from fulldeck.recipe.schema import recipe_schema

    schema = recipe_schema()
    if out is None:
        write_json(schema)
        return
    from fulldeck.files import write_json as write_file

    write_file(out, schema)
    if json:
        write_json({"file": out})
    else:
        typer.echo(f"{out}; begin a recipe with: # yaml-language-server: $schema={out}")
