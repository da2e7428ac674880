"""The page of measurements: tables from benchmarks/results, each with its machine and its command."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from instruction_page import table

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = BENCHMARKS / "results"
LEFT_OUT = frozenset({"machine", "raw", "raw_ms", "start", "load_after"})
"""What is no figure to read, or stands in another result too."""
ROUNDS = "rounds"


def page() -> str:
    """A section for each result that is there."""
    parts = [
        "# Measurements",
        "Each table is made from a file in `benchmarks/results`, which the command above it wrote. Figures are "
        "those of the machine that is named; read them as ratios. An interval in brackets is the 95 % interval of "
        "the median.",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        parts += _section(path)
    return "\n\n".join(parts)


def _section(path: Path) -> list[str]:
    result = json.loads(path.read_bytes())
    module = ast.parse((BENCHMARKS / f"{path.stem}.py").read_text())
    title, _, explained = (ast.get_docstring(module) or path.stem).partition("\n")
    command, _, rest = explained.strip().partition("\n")
    return [
        f"## {path.stem.replace('_', ' ').capitalize()}",
        title,
        f"`{command.strip()}`",
        rest.strip(),
        _machine(result["machine"]),
        *(table(*found) for found in tables(result)),
    ]


def _machine(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {version}"
        for name, version in machine["versions"].items()
        if name in {"python", "torch", "numpy"}
    )
    accelerator = machine.get("accelerator") or "no accelerator"
    return (
        f"Machine: {machine['processor']}, {machine['cores']} cores, {accelerator}, {versions}; "
        f"measured on {machine['time'][:10]}."
    )


def tables(result: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """(columns, rows) for every group of arms in a result: an arm is a mapping of figures."""
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for path, figures in _arms(result, ()):
        groups.setdefault(" ".join(path[:-1]), {})[path[-1]] = figures
    for group, arms in groups.items():
        names = list(dict.fromkeys(name for figures in arms.values() for name in figures))
        columns = (group.replace("_", " "), *(name.replace("_", " ") for name in names))
        rows = [
            (arm.replace("_", " "), *(_figure(figures[name]) if name in figures else "" for name in names))
            for arm, figures in arms.items()
        ]
        yield columns, rows


def _arms(
    value: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    kept = {name: item for name, item in value.items() if name not in LEFT_OUT and not isinstance(item, list)}
    figures = {name: item for name, item in kept.items() if _is_figure(item)}
    if path and figures:
        yield path, figures
    for name, item in kept.items():
        if isinstance(item, Mapping) and name not in figures:
            yield from _arms(item, (*path, name))


def _is_figure(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "median" in value
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _figure(value: Any) -> str:
    if isinstance(value, Mapping):
        low, high = value["interval"]
        return f"{_number(value['median'])} [{_number(low)}, {_number(high)}]"
    return _number(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
