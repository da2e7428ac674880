"""`fulldeck list`: what instructions there are. Reads the catalogue only, never torch."""

from __future__ import annotations

from typing import Annotated

import typer

from fulldeck.catalogue import catalogue
from fulldeck.cli.completion import stage_names
from fulldeck.cli.output import Json, write_json, write_table
from fulldeck.errors import BadInput, closest

EXAMPLE = "fulldeck list --stage training"


def command(
    stage: Annotated[
        str | None,
        typer.Option(
            help="Only those of one stage: data, training, inference, deployment or extensions; left out: all.",
            autocompletion=stage_names,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the instructions, by number, with what each does.

    Those of installed plugins too; a plugin that cannot be read is named with the reason.
    """
    found = catalogue()
    stages = dict.fromkeys(entry.stage for entry in found)
    if stage is not None and stage not in stages:
        raise BadInput(f'no stage "{stage}"{closest(stage, stages)}; there is {", ".join(stages)}')
    entries = [entry for entry in found if stage in (None, entry.stage)]
    if json:
        keys = ("name", "number", "stage", "title", "doors", "kinds", "extras", "built_in")
        rows = [{key: getattr(entry, key) for key in keys} for entry in entries]
        write_json({"instructions": rows, "broken": found.broken})
        return
    write_table(
        ("no", "instruction", "stage", "what it does"),
        [(f"{entry.number:02d}", entry.name, entry.stage, entry.title.rstrip(".")) for entry in entries],
    )
    for name, reason in found.broken.items():
        typer.echo(f'error: plugin "{name}" is broken and left out: {reason}', err=True)
