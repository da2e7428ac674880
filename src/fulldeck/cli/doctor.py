"""`fulldeck doctor`: what this machine has, and what is missing for which instruction."""

from __future__ import annotations

import typer

from fulldeck.cli.output import Json, write_json, write_text

EXAMPLE = "fulldeck doctor"


def command(json: Json = False) -> None:
    """Show the machine, versions, and what is missing."""
    from fulldeck.doctor import examine

    findings = examine()
    if json:
        write_json(findings)
        return
    for topic, lines in findings.items():
        typer.echo(topic)
        for line in lines:
            write_text(f"{line['verdict']:<8}{line['name']}: {line['found']}", indent="  ", hanging=" " * 8)
            if "remedy" in line:
                typer.echo(f"{'':10}{line['remedy']}")
