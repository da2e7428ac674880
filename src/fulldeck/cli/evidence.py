"""`fulldeck evidence`: what has been shown on this machine, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fulldeck.cli.output import Json, write_json, write_table
from fulldeck.cli.verify import said

EXAMPLE = "fulldeck evidence --out docs/evidence"


def command(
    out: Annotated[Path, typer.Option(help="Where `fulldeck verify` has kept its results.")] = Path(
        "evidence"
    ),
    json: Json = False,
) -> None:
    """List the measurements that have been made: verdict, figure with interval, claim, day, machine."""
    from fulldeck.evidence.store import kept

    results = [result for _, result in kept(out)]
    if json:
        write_json(results)
    elif not results:
        typer.echo(
            f"nothing has been measured below {out}; begin with: fulldeck verify amp_optimizer --quick"
        )
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
        write_table(("instruction", "workload", "verdict", "day", "shown"), rows)
