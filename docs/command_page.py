"""The reference of the command line, from the typer app itself."""

from __future__ import annotations

import re
from typing import Any

from instruction_page import table
from typer.main import get_command

from fulldeck.cli import COMMANDS, app

EXIT_CODES = {0: "done", 1: "failed", 2: "bad input", 130: "interrupted"}


def page() -> str:
    """Every command with its arguments, options, defaults and example."""
    group: Any = get_command(app)
    parts = [
        "# Command line",
        "Every command has `--help` and `--json`. With `--json` there is one JSON document on standard output "
        "and nothing else. An error is one line on standard error for each problem.",
        table(("exit code", "meaning"), [(str(code), meaning) for code, meaning in EXIT_CODES.items()]),
    ]
    top = group.make_context("fulldeck", [], resilient_parsing=True)
    for name in COMMANDS:
        parts += _command(name, group.commands[name], top)
    return "\n\n".join(parts)


def _command(name: str, command: Any, top: Any) -> list[str]:
    context = command.make_context(name, [], parent=top, resilient_parsing=True)
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [f"## fulldeck {name}", _markdown(command.help), f"`{usage}`"]
    kinds: dict[str, list[Any]] = {"argument": [], "option": []}
    for parameter in command.get_params(context):
        kinds[parameter.param_type_name].append(parameter)
    for kind, found in kinds.items():
        rows = [_row(parameter, context) for parameter in found if parameter.name != "help"]
        if rows:
            parts.append(table((kind, "default", "meaning"), rows))
    # The files that an example names are the reader's own.
    parts.append("Example:")
    parts.append(f"<!-- parsed only: an example of the arguments -->\n```sh\n{COMMANDS[name].EXAMPLE}\n```")
    return parts


def _row(parameter: Any, context: Any) -> tuple[str, str, str]:
    """How it is written, its default, and its help with the range that typer adds."""
    written, said = parameter.get_help_record(context)
    said, _, facts = said.partition("  [")
    known = [fact for fact in facts.rstrip("]").split("; ") if fact]
    default = next((fact.removeprefix("default: ") for fact in known if fact.startswith("default: ")), "")
    rest = [fact for fact in known if not fact.startswith("default: ")]
    meaning = f"{said} ({', '.join(rest)})" if rest else said
    return f"`{re.sub('<str>', '<text>', written)}`", f"`{default}`" if default else "", meaning


def _markdown(text: str) -> str:
    """A docstring as Markdown; typer's mark for preformatted text is dropped, and a lone # is no heading."""
    lines = [line.removeprefix("\b") for line in (text or "").splitlines()]
    return "\n".join(f"`{line}`" if line.startswith("#") else line for line in lines)
