"""`fulldeck compare RUN RUN...`: runs side by side, as a table and as a page."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer

from fulldeck.cli.output import NARROW, Json, width, write_json, write_table, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fulldeck.report.comparison import Comparison, Row

EXAMPLE = "fulldeck compare runs/20261123-141500-digits runs/latest --out compare.html"

LONGEST = 40
"""Characters of a cell on the terminal."""


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Two run folders or more.")],
    out: Annotated[Path | None, typer.Option(help="Also write a page with learning curves.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the page in the browser; needs --out.")] = False,
    json: Json = False,
) -> None:
    """Put runs side by side: what was asked for differently, and what came out.

    Runs of different workloads, data, machines or versions are told about.
    """
    from fulldeck.errors import BadInput
    from fulldeck.report import write_comparison
    from fulldeck.report.comparison import compare

    if open_ and out is None:
        raise BadInput("--open shows the page that --out writes; add --out compare.html")
    comparison = compare(runs)
    if out is not None:
        write_comparison(comparison, out)
    if json:
        write_json(comparison.to_json() | ({} if out is None else {"out": out}))
    else:
        _write(comparison)
        if out is not None:
            typer.echo(f"\n{out}")
    if open_ and out is not None:
        webbrowser.open(out.resolve().as_uri())


def _write(comparison: Comparison) -> None:
    for letter, run in comparison.runs.items():
        typer.echo(f"{letter}  {run.folder}  {run.status}")
    for warning in comparison.warnings:
        write_text(f"careful: {warning}", hanging="  ")
    letters = list(comparison.runs)
    typer.echo()
    if comparison.recipe:
        write_table(("setting", *letters), _cells(comparison.recipe, letters))
    else:
        typer.echo("the recipes are the same")
    typer.echo()
    write_table(("figure", *letters), _cells(comparison.figures, letters))
    if any(row.best for row in comparison.figures):
        write_text("* the best of its row; times that differ by less than a fifth are taken as equal")


def _cells(rows: Sequence[Row], letters: Sequence[str]) -> list[tuple[str, ...]]:
    """The best of a row is starred; what is long is cut, the page and --json have it whole.

    Where the terminal is too narrow for a table's head, each value stands with its run's letter.
    """
    before = [f"{letter} " if width() < NARROW else "" for letter in letters]
    return [
        (
            row.name,
            *(
                f"{before[place]}{shorten(text, LONGEST, placeholder='...')}{' *' if place in row.best else ''}"
                for place, text in enumerate(row.texts)
            ),
        )
        for row in rows
    ]
