"""`fulldeck doctor`: what this machine has, and what is missing for which instruction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fulldeck.cli.output import Json, write_json, write_text

EXAMPLE = "fulldeck doctor"


def command(
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead: measure what this machine can do, and write it as a hardware profile (.toml).",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show what this machine and installation have, a verdict a line, and what to type about it.

    ok: here. note: works, and you should know. missing: what needs it does not work; the line below says
    what to type. Ends with what is missing for the recipe digits. The exit code is 0 in any case.
    """
    if calibrate is not None:
        from fulldeck.diagnosis.measured_profile import calibrated, write_profile

        profile = calibrated(calibrate)
        write_profile(profile, calibrate)
        if json:
            write_json(profile.model_dump(mode="json", exclude_none=True))
        else:
            typer.echo(f"wrote {calibrate}; a recipe uses it by hardware: {calibrate}")
        return
    from fulldeck.doctor import examine, summary

    findings = examine()
    if json:
        write_json(findings | {"summary": summary(findings)})
        return
    for topic, lines in findings.items():
        typer.echo(topic)
        for line in lines:
            write_text(f"{line['verdict']:<8}{line['name']}: {line['found']}", indent="  ", hanging=" " * 8)
            if "remedy" in line:
                write_text(line["remedy"], indent=" " * 10, hanging="  ")
    typer.echo()
    write_text(summary(findings))
