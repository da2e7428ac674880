"""`fulldeck evidence`: what has been shown on this machine, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fulldeck.cli.output import Json, write_json, write_table
from fulldeck.cli.verify import said

EXAMPLE = "fulldeck evidence --page evidence.html"


def command(
    out: Annotated[Path, typer.Option(help="Where `fulldeck verify` has kept its results.")] = Path(
        "evidence"
    ),
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write them as a page: plots with intervals, and how instructions depend on each other.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the measurements that have been made: verdict, figure with interval, claim, day, machine."""
    from fulldeck.evidence.store import as_json, kept, kept_contributions, kept_refusals

    results = [result for _, result in kept(out)]
    refusals = [result for _, result in kept_refusals(out)]
    if page is not None:
        from fulldeck.report import write_evidence

        write_evidence(results, [result for _, result in kept_contributions(out)], page, refusals)
    if json:
        write_json(as_json([*results, *refusals]))
    elif not results and not refusals:
        typer.echo(f"nothing has been measured in {out}/; begin with: fulldeck verify amp_optimizer --quick")
    else:
        rows = [
            (
                result["name"],
                result["workload"],
                result["verdict"],
                result["time"][:10],
                f"{said(result)} ({result['machine']['accelerator'] or result['machine']['processor']})",
            )
            for result in results
        ]
        rows += [
            (one["name"], one["workload"], one["verdict"], one["time"][:10], one["reason"])
            for one in refusals
        ]
        write_table(("instruction", "workload", "verdict", "day", "shown"), rows)
    if page is not None and not json:
        typer.echo(page)
