"""`fulldeck show NAME`: one instruction with its parameters and rules. Reads the catalogue only."""

from __future__ import annotations

import json as json_module
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from fulldeck.catalogue import Entry, catalogue
from fulldeck.cli.completion import instruction_names
from fulldeck.cli.output import Json, write_json, write_table, write_text

EXAMPLE = "fulldeck show onnx_export"

LONGEST = 32
"""Characters of the columns of values and defaults; what is longer is written with the meaning."""
_SECTION = re.compile(r"(Use when|Avoid when|Reference|Example):")


def command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="An instruction's name or number, as in fulldeck list.",
            autocompletion=instruction_names,
        ),
    ],
    json: Json = False,
) -> None:
    """Show what an instruction does and takes.

    When to use it and when not, an example in Python, each parameter with its values and default, the
    order rules and conflicts, and the effect that it claims.
    """
    entry = catalogue().find(name)
    if json:
        write_json(asdict(entry) | {"built_in": entry.built_in})
        return
    typer.echo(
        f"{entry.number:02d} {entry.name}\n{entry.stage}; opens {', '.join(entry.doors) or 'no door'}\n"
    )
    for block in _blocks(entry.doc):
        if block.startswith(" "):
            typer.echo(block)
        else:
            write_text(block) if block else typer.echo()
    if entry.parameters:
        rows = [
            (
                key,
                _values(value),
                _default(value),
                _meaning(value),
            )
            for key, value in entry.parameters.items()
        ]
        typer.echo()
        write_table(("parameter", "values", "default", "meaning"), rows)
    typer.echo()
    for line in _facts(entry):
        write_text(line, hanging="  ")


def _blocks(doc: str) -> list[str]:
    """Paragraphs to wrap, indented lines as they are, and empty ones between."""
    blocks: list[str] = []
    for line in doc.splitlines():
        continues = blocks and blocks[-1] and not blocks[-1].startswith(" ")
        if continues and line and not line.startswith(" ") and not _SECTION.match(line):
            blocks[-1] += f" {line}"
        else:
            blocks.append(line)
    return blocks


def _facts(entry: Entry) -> list[str]:
    lines = [f"after {name}: {reason}" for name, reason in entry.after.items()]
    lines += [f"before {name}: {reason}" for name, reason in entry.before.items()]
    lines += [f"not with {name}: {reason}" for name, reason in entry.conflicts.items()]
    lines += [f"works on: {', '.join(entry.kinds)} data"] if entry.kinds else []
    lines += [f'needs: pip install "fulldeck[{",".join(entry.extras)}]"'] if entry.extras else []
    lines += [f"in a first recipe for: {', '.join(entry.goals)}"] if entry.goals else []
    evidence = entry.evidence
    settings = ", ".join(f"{key}: {value}" for key, value in evidence["settings"].items())
    where = evidence["workload"] + (f" ({settings})" if settings else "")
    lines.append(f"claims: {evidence['metric']} {evidence['expect']} on {where}")
    names = (entry.class_name, *entry.functions)
    if entry.built_in:
        listed = ", ".join(f"fd.{name}" for name in names)
        lines.append(f"in Python: import fulldeck as fd; {listed}; help(fd.{names[-1]}) says what it takes")
    else:
        lines.append(f"in Python: from {entry.module} import {', '.join(names)}")
    return lines


def _values(schema: Mapping[str, Any]) -> str:
    allowed = allowed_values(schema)
    return allowed if len(allowed) <= LONGEST else "one of these:"


def _default(schema: Mapping[str, Any]) -> str:
    if "default" not in schema:
        return "required"
    default = plain_value(schema["default"])
    return default if len(default) <= LONGEST else "these:"


def _meaning(schema: Mapping[str, Any]) -> str:
    allowed, said = allowed_values(schema), schema.get("description", "")
    said = said if len(allowed) <= LONGEST else f"{allowed}. {said}"
    if _default(schema) != "these:":
        return said
    default = schema["default"]
    listed = ", ".join(map(plain_value, default)) if isinstance(default, list) else plain_value(default)
    return f"{said} Default: {listed}."


def allowed_values(schema: Mapping[str, Any]) -> str:
    """A parameter's JSON schema in a few words: `number, 0 to 1`."""
    if "anyOf" in schema:
        return " or ".join(allowed_values(choice) for choice in schema["anyOf"] if choice != {"type": "null"})
    if "enum" in schema:
        return ", ".join(plain_value(value) for value in schema["enum"])
    if "const" in schema:
        return plain_value(schema["const"])
    words = {"array": "list", "null": "null", "boolean": "true, false", "string": "text"}
    kind = words.get(schema.get("type", ""), schema.get("type", "any"))
    if "minimum" in schema and "maximum" in schema:
        return f"{kind}, {schema['minimum']:g} to {schema['maximum']:g}"
    return ", ".join([kind, *(f"{words} {schema[key]:g}" for key, words in _BOUNDS.items() if key in schema)])


_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "over",
    "maximum": "at most",
    "exclusiveMaximum": "under",
}


def plain_value(value: Any) -> str:
    """A value as a recipe writes it."""
    return value if isinstance(value, str) else json_module.dumps(value)
