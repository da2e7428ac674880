"""What the commands write: JSON or text on standard output, errors on standard error."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from fulldeck.figures import duration as duration
from fulldeck.figures import figure as figure
from fulldeck.figures import size as size
from fulldeck.files import plain
from fulldeck.logs import tree

Json = Annotated[
    bool, typer.Option("--json", help="Write one JSON document to standard output, and nothing else.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Write errors only, and the result.")]
LogJson = Annotated[
    bool,
    typer.Option("--log-json", help="Write what happens to standard error, one JSON object a line."),
]
WIDTH_IN_A_PIPE = 110
NARROW = 60
"""Columns of a terminal below which a table's rows are written as paragraphs."""
log = tree.getChild("cli")


INTERRUPTED = 130
"""The exit code after Ctrl-C."""


class Interrupted(Exception):
    """The user pressed Ctrl-C; the message says how to go on. Exit code INTERRUPTED."""


def write_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, default=plain))


def write_error(message: str, code: int, *, as_json: bool, as_log: bool = False) -> int:
    """Each line of `message` as an error on standard error (and, `as_json`, one document); return `code`.

    That the user interrupted is no error, and is said plainly.

    `as_log`: the lines go to the log instead.
    """
    for line in message.splitlines():
        if as_log:
            log.error("%s", line, extra={"exit_code": code})
        else:
            typer.echo(line if code == INTERRUPTED else f"error: {line}", err=True)
    if as_json:
        typer.echo(json.dumps({"error": message, "exit_code": code}))
    return code


def width() -> int:
    """Columns of the terminal; the environment's COLUMNS goes before it."""
    return shutil.get_terminal_size((WIDTH_IN_A_PIPE, 24)).columns


def write_text(text: str, indent: str = "", hanging: str = "") -> None:
    """A paragraph, wrapped; `hanging` is added to the indent of all its lines but the first."""
    lines = textwrap.wrap(
        text,
        max(width(), 20),
        initial_indent=indent,
        subsequent_indent=indent + hanging,
        break_on_hyphens=False,
    )
    typer.echo("\n".join(lines))


def write_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose last column wraps; on a narrow terminal a paragraph for each row."""
    if width() < NARROW:
        for *head, last in rows:
            if any(head):
                write_text("  ".join(cell for cell in head if cell))
            write_text(last, indent="    ")
        return
    sizes = [max(len(row[place]) for row in (columns, *rows)) for place in range(len(columns) - 1)]
    start = sum(sizes) + 2 * len(sizes)
    room = max(width() - start, 20)
    for *head, last in (columns, *rows):
        first, *rest = textwrap.wrap(last, room, break_on_hyphens=False) or [""]
        cells = "".join(f"{cell:<{size}}  " for cell, size in zip(head, sizes, strict=True))
        typer.echo(f"{cells}{first}".rstrip())
        for line in rest:
            typer.echo(" " * start + line)
