"""`fulldeck report RUN`: what happened in a run, as one HTML file."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from fulldeck.cli.completion import run_folders
from fulldeck.cli.output import Json, size, write_json

EXAMPLE = "fulldeck report runs/latest --open"


def command(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run folder, such as runs/latest.", autocompletion=run_folders),
    ],
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    json: Json = False,
) -> None:
    """Write the report of a run, RUN/report.html.

    One file that needs no network; also of a run that failed or still goes on.
    """
    from fulldeck.report import write_report

    path = write_report(run)
    written = path.stat().st_size
    if json:
        write_json({"report": path, "bytes": written})
    else:
        typer.echo(f"{path}, {size(written)}")
    if open_:
        webbrowser.open(path.resolve().as_uri())
