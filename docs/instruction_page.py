"""The page of one instruction and the overview of all, from the catalogue."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fulldeck.catalogue import Entry
from fulldeck.cli.show import allowed_values, plain_value
from fulldeck.evidence.store import kept, kept_refusals

EVIDENCE = Path(__file__).parent / "evidence"
"""Where measurements of single instructions lie: one JSON document a file."""
SECTIONS = ("Use when", "Avoid when", "Reference", "Example")
DOORS = {
    "prepare": "prepares the data",
    "attach": "attaches to the training loop",
    "optimise": "converts the trained model",
    "configure": "configures the service",
}


def overview(entries: Iterable[Entry]) -> str:
    """A table of all instructions, with what each opens and works on."""
    rows = [
        (
            f"{entry.number:02d}",
            f"[`{entry.name}`]({entry.name}.md)",
            entry.stage,
            ", ".join(entry.kinds) or "all",
            entry.title.rstrip("."),
        )
        for entry in entries
    ]
    return "\n\n".join(
        [
            "# Instructions",
            "An instruction is one numbered technique. Each has a page: what it does, when to use it, its "
            "parameters, the rules of order, an example, and what it claims.",
            table(("no", "name", "stage", "data", "what it does"), rows),
            "The numbers are fixed. Numbers that are missing here are not built yet. Plugins take 100 and up: "
            "see [Write a plugin](../write-a-plugin.md).",
        ]
    )


def page(entry: Entry) -> str:
    """Everything that the code says about one instruction."""
    text = sections(entry.doc)
    parts = [
        f"# {entry.name}",
        f"**{entry.number:02d} · {entry.stage}** · {entry.title}",
        _facts(entry),
        text["What it does"],
        "## When to use it",
        f"**Use when:** {text['Use when']}",
        f"**Avoid when:** {text['Avoid when']}",
        "## Parameters",
        parameters(entry.parameters) if entry.parameters else "It has none.",
        "## In a recipe",
        f"```yaml\n{_recipe(entry)}```",
        "## Order and conflicts",
        _rules(entry),
        "## Example",
        f"```pycon\n{_imports(entry)}{text['Example']}\n```",
        "## In Python",
        f"`from {entry.module} import {', '.join((entry.class_name, *entry.functions))}`",
        *(f"::: {entry.module}.{name}" for name in entry.functions),
        "## Evidence",
        _evidence(entry),
        "## Reference",
        text["Reference"],
    ]
    return "\n\n".join(part for part in parts if part)


def sections(doc: str) -> dict[str, str]:
    """The parts of an instruction's docstring by name; `What it does` is what follows the title."""
    pattern = re.compile(rf"^({'|'.join(SECTIONS)}):", re.MULTILINE)
    before, *rest = pattern.split(doc.partition("\n")[2])
    found = {"What it does": before.strip()}
    for name, text in zip(rest[::2], rest[1::2], strict=True):
        lines = text.strip("\n").splitlines()
        # Example lines keep their relative indent; the others are running text.
        found[name] = (
            "\n".join(line.removeprefix("    ") for line in lines).strip()
            if name == "Example"
            else " ".join(line.strip() for line in lines)
        )
    return {name: text.strip() for name, text in found.items()}


def parameters(schemas: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of declared parameters: type and range, default, values worth trying, meaning."""
    rows: list[tuple[str, ...]] = [
        (
            f"`{name}`",
            allowed_values(schema),
            f"`{plain_value(schema['default'])}`" if "default" in schema else "required",
            ", ".join(f"`{plain_value(value)}`" for value in schema.get("search", ())),
            schema.get("description", ""),
        )
        for name, schema in schemas.items()
    ]
    columns: tuple[str, ...] = ("parameter", "type and range", "default", "worth trying", "meaning")
    if not any(row[3] for row in rows):
        columns, rows = columns[:3] + columns[4:], [row[:3] + row[4:] for row in rows]
    return table(columns, rows)


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a bar within a cell is escaped."""
    lines = [list(columns), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def _facts(entry: Entry) -> str:
    lines = [f"It {' and '.join(DOORS[door] for door in entry.doors)}."]
    if entry.kinds:
        lines.append(f"It works on {' and '.join(entry.kinds)} data.")
    if entry.extras:
        lines.append(f'It needs `pip install "fulldeck[{",".join(entry.extras)}]"`.')
    if entry.recipe_key:
        lines.append(f"The top-level key `{entry.recipe_key}:` of a recipe stands for it.")
    return " ".join(lines)


def _recipe(entry: Entry) -> str:
    """A recipe with this instruction and, to show how, its first parameter at a value worth trying or its default."""
    defaults = {
        name: next(iter(schema.get("search", ())), schema["default"])
        for name, schema in entry.parameters.items()
        if schema.get("default") is not None
    }
    name = next(iter(defaults), None)
    line = entry.name if name is None else f"{entry.name}: {{{name}: {plain_value(defaults[name])}}}"
    workload = "digits" if not entry.kinds or "image" in entry.kinds else entry.evidence["workload"]
    return f"workload: {workload}\ninstructions:\n  - {line}\n"


def _rules(entry: Entry) -> str:
    lines = [f"- After {_spoken(rule)}: {reason}." for rule, reason in entry.after.items()]
    lines += [f"- Before {_spoken(rule)}: {reason}." for rule, reason in entry.before.items()]
    lines += [f"- Not together with `{name}`: {reason}." for name, reason in entry.conflicts.items()]
    if not lines:
        lines.append("- It has no rules of its own; the planner's general rules hold.")
    if entry.touches:
        lines.append(f"- It touches {', '.join(f'`{word}`' for word in entry.touches)}.")
    lines.append(
        "- It may stand more than once in a recipe."
        if entry.repeatable
        else "- It may stand only once in a recipe."
    )
    return "\n".join(lines)


def _spoken(rule: str) -> str:
    kind, colon, value = rule.partition(":")
    if not colon:
        return f"`{rule}`"
    return f"everything that touches `{value}`" if kind == "touches" else f"everything of the stage {value}"


def _imports(entry: Entry) -> str:
    """The names that a docstring's example finds in its own module."""
    names = [name for name in (entry.class_name, *entry.functions) if re.search(rf"\b{name}\b", entry.doc)]
    example = sections(entry.doc)["Example"]
    lines = [f">>> from {entry.module} import {', '.join(names)}"] if names else []
    if re.search(r"\bnp\.", example) and "import numpy" not in example:
        lines.insert(0, ">>> import numpy as np")
    if re.search(r"\bPath\(", example) and "import Path" not in example:
        lines.insert(0, ">>> from pathlib import Path")
    return "".join(f"{line}\n" for line in lines)


def _evidence(entry: Entry) -> str:
    """What is declared, and beside it what has been measured."""
    declared = entry.evidence
    rows = [("claim", str(declared["metric"]), str(declared["expect"]))]
    rows += [("cost at most", name, effect) for name, effect in declared["cost"].items()]
    parts = [
        f"Declared, on the workload `{_workload(declared)}` (a figure with `x` is a ratio to the run without it, "
        "a signed one a difference, a plain one a level):",
        table(("", "figure", "effect"), rows),
    ]
    if declared["peer"]:
        parts.append(f"The same can be measured beside `{declared['peer']}`.")
    found, refusals = measured(entry.name), refused(entry.name)
    parts.append("Measured:" if found else "Not measured yet." if not refusals else "")
    if found:
        columns = (
            "workload",
            "figure",
            "without → with",
            "effect [interval]",
            "verdict",
            "repeated",
            "machine",
        )
        parts.append(table(columns, [row for result in found for row in _measurements(result)]))
        parts += [f"On {one['workload']}: {one['reason']}." for one in found if one.get("reason")]
    parts += [f"Not measured on {where(one)}: {one['reason']}." for one in refusals]
    return "\n\n".join(part for part in parts if part)


def _workload(declared: Mapping[str, Any]) -> str:
    """Its name, or as a recipe has it where settings are not the defaults."""
    settings = "".join(f", {name}: {plain_value(value)}" for name, value in declared["settings"].items())
    return f"{{kind: {declared['workload']}{settings}}}" if settings else str(declared["workload"])


def measured(name: str) -> list[dict[str, Any]]:
    """What `fulldeck verify` has found about one instruction, from docs/evidence."""
    return [result for _, result in kept(EVIDENCE) if result["name"] == name]


def refused(name: str) -> list[dict[str, Any]]:
    """Likewise, why it could not be measured."""
    return [result for _, result in kept_refusals(EVIDENCE) if result["name"] == name]


def where(result: Mapping[str, Any]) -> str:
    """The machine and the day of a measurement, and the revision of fulldeck."""
    machine = result["machine"]
    at = f", revision {result['revision']}" if result.get("revision") else ""
    return f"{machine['accelerator'] or machine['processor']}, {machine['cores']} cores, {result['time'][:10]}{at}"


def _measurements(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for the figure that is claimed, one for each cost, and one for each peer beside it."""
    for one in (result, *result["costs"], *result.get("peers", {}).values()):
        before = "" if one["baseline"] is None else f"{one['baseline']:.4g} → "
        yield (
            result["workload"],
            f"{one['metric']}, {one['peer']} in its place" if "peer" in one else one["metric"],
            f"{before}{one['treatment']:.4g}",
            effect(one),
            one.get("verdict", ""),
            f"{one['rounds']} {one.get('repeated', 'rounds')}",
            where(result),
        )


def effect(figure: Mapping[str, Any]) -> str:
    """The effect with its interval; of a figure that only the treatment has, the figure."""
    if figure["baseline"] is None:
        return f"{figure['treatment']:.4g}"
    scale = "{:.3g}x" if "difference" not in figure else "{:+.3g}"
    estimate = scale.format(figure.get("difference", figure.get("ratio")))
    if not all(map(math.isfinite, figure["interval"])):
        return f"{estimate} (too few for an interval)"
    low, high = (scale.format(value) for value in figure["interval"])
    return f"{estimate} [{low}, {high}]"
