"""What a finished run shows: what each instruction changed, artifacts, rehearsal, what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from fulldeck.cli.output import figure, size, write_table, write_text


def write_line(result: Mapping[str, Any]) -> None:
    """The result of a run as one line: its folder, and the metrics of the last split."""
    split, figures = list(result["metrics"].items())[-1]
    said = ", ".join(f"{name} {figure(name, value)}" for name, value in figures.items())
    typer.echo(f"{result['run']}  {split}: {said}")


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
        write_text(
            f"{split}: {', '.join(f'{name} {figure(name, value)}' for name, value in figures.items())}"
        )
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
        said = name.removesuffix("_ms").replace("_", " ")
        before, after = value.get("before"), value.get("after")
        if before is None:
            lines.append(f"{said} {figure(name, after)}")
        elif before != after:
            lines.append(f"{said} {figure(name, before)} -> {figure(name, after)}{_ratio(before, after)}")
    return lines or [item["status"]]


def _ratio(before: Any, after: Any) -> str:
    numbers = all(isinstance(value, (int, float)) and value > 0 for value in (before, after))
    ratio = after / before if numbers else 1.0
    worth_saying = 0.01 <= ratio <= 0.67 or 1.5 <= ratio <= 100
    return f" ({ratio:.2g}x)" if worth_saying else ""


def _next(result: Mapping[str, Any]) -> list[str]:
    """What to look at and to type; commands are not wrapped, so that they can be copied."""
    run = shlex.quote(str(result["run"]))
    report = Path(result["run"]) / "report.html"
    lines = [f"report: {report}", f"fulldeck report {run} --open"] if report.is_file() else []
    if result.get("rehearsal"):
        return [*lines, f"fulldeck serve {run}", f"fulldeck predict {run} INPUT"]
    return [*lines, "fulldeck show model_packaging    # to get something to serve"]
