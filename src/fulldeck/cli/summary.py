"""What a finished run shows: what each instruction changed, artifacts, rehearsal, what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from fulldeck.cli.output import size, write_table, write_text
from fulldeck.report.words import NO_BREAK, NO_CHANGE, ratio, said, shown


def write_line(result: Mapping[str, Any]) -> None:
    """The result of a run as one line: its folder, and the metrics of the last split."""
    split, figures = list(result["metrics"].items())[-1]
    typer.echo(f"{result['run']}  {_metrics(split, figures)}")


def write_summary(result: Mapping[str, Any]) -> None:
    """Write the result of a run for a person."""
    rows = []
    for item in result["instructions"]:
        name = item.get("label", item["name"])
        for place, words in enumerate(_changes(item)):
            rows.append((f"{item['number']:02d}" if not place else "", name if not place else "", words))
    typer.echo()
    write_table(("no", "instruction", "before -> after"), rows)
    typer.echo()
    for split, figures in result["metrics"].items():
        write_text(_metrics(split, figures))
    for artifact in result["artifacts"]:
        write_text(
            f"{artifact['path']}: {artifact['precision']} {artifact['kind']}, {size(artifact['bytes'])}"
        )
    rehearsal = result.get("rehearsal")
    if rehearsal:
        latency = rehearsal["latency_ms"]
        write_text(
            f"rehearsal: {rehearsal['requests']} requests to a real server, {rehearsal['agreement']:.1%} equal "
            f"answers, p50 {latency['p50']:.2f} ms, p99 {latency['p99']:.2f} ms"
        )
    typer.echo()
    for line in _next(result):
        typer.echo(line)


def _changes(item: Mapping[str, Any]) -> list[str]:
    if item["status"] == "skipped":
        return [f"skipped: {item.get('reason', '')}"]
    lines = []
    for name, value in item["changes"].items():
        before, after = value.get("before"), value.get("after")
        if before is None:
            lines.append(_typed(f"{said(name)} {shown(name, after)}"))
        elif shown(name, before) != shown(name, after):
            compared = ratio(name, before, after)
            worth_saying = f", {compared}" if compared not in ("", NO_CHANGE) else ""
            words = f"{said(name)} {shown(name, before)} -> {shown(name, after)}{worth_saying}"
            lines.append(_typed(words))
    return lines or [item["status"]]


def _metrics(split: str, figures: Mapping[str, float]) -> str:
    return _typed(
        f"{split}: {', '.join(f'{said(name)} {shown(name, value)}' for name, value in figures.items())}"
    )


def _typed(text: str) -> str:
    """A page's text in characters that a keyboard has, so that it can be searched for."""
    return text.replace(NO_BREAK, " ").replace("×", "x")


def _next(result: Mapping[str, Any]) -> list[str]:
    """What to look at and to type; commands are not wrapped, so that they can be copied."""
    run = shlex.quote(str(result["run"]))
    report = Path(result["run"]) / "report.html"
    lines = [f"report: {report}", f"fulldeck report {run} --open"] if report.is_file() else []
    if result.get("rehearsal"):
        name = result["rehearsal"].get("example")
        item = "INPUT" if name is None else shlex.quote(str(Path(result["run"]) / name))
        return [*lines, f"fulldeck serve {run}", f"fulldeck predict {run} {item}"]
    return [*lines, "fulldeck show model_packaging    # to get something to serve"]
