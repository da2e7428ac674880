"""The page of measurements: tables from benchmarks/results, each with its machine and its command."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import instruction_page
from instruction_page import effect, table, where

from fulldeck.evidence.store import kept, kept_refusals

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = BENCHMARKS / "results"
LEFT_OUT = frozenset({"machine", "raw", "raw_ms", "start", "load_after", "rounds"})
"""What is no figure to read, or stands in another result too."""


def page() -> str:
    """What each instruction did, and a section for each result of a benchmark that is there."""
    parts = [
        "# Measurements",
        *_evidence(),
        "## Benchmarks",
        "Each table is made from a file in `benchmarks/results`, which the command above it wrote. Figures are "
        "those of the machine that is named; read them as ratios. An interval in brackets is the 95 % interval of "
        "the median.",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        parts += _section(path)
    return "\n\n".join(parts)


def _evidence() -> list[str]:
    """What has been shown of each instruction; nothing if nothing has been measured."""
    results = [result for _, result in kept(instruction_page.EVIDENCE)]
    refusals = [result for _, result in kept_refusals(instruction_page.EVIDENCE)]
    if not results and not refusals:
        return []
    holds = {True: "holds", False: "does not hold", None: "open"}
    rows = [
        (
            *_of(result),
            f"{result['metric']} {effect(result)}",
            f"{result['claim']}: {holds[result['claim_holds']]}",
            result["verdict"],
            f"{result['rounds']} {result['repeated']}",
        )
        for result in results
    ]
    rows += [(*_of(one), "", "", f"{one['verdict']}: {one['reason']}", "") for one in refusals]
    columns = ("no", "instruction", "workload", "effect [interval]", "claim", "verdict", "repeated")
    machines = sorted({where(result) for result in (*results, *refusals)})
    return [
        "## What each instruction did",
        "Made from the files in `docs/evidence`, which `make evidence` writes: each instruction against the same "
        "recipe without it, on the workload that its evidence names. Effects with `x` are ratios, signed ones "
        "differences. Costs, and the reasons of what is undecided, stand on each instruction's page.",
        f"Measured on {'; '.join(machines)}.",
        table(columns, sorted(rows)),
    ]


def _of(result: Mapping[str, Any]) -> tuple[str, str, str]:
    name = result["name"]
    return f"{result['number']:02d}", f"[`{name}`](instructions/{name}.md)", result["workload"]


def _section(path: Path) -> list[str]:
    result = json.loads(path.read_bytes())
    module = ast.parse(benchmark(path).read_text())
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


def benchmark(result: Path) -> Path:
    """What wrote a result: `serving-convolution.json` is one of several that `serving.py` writes."""
    own = BENCHMARKS / f"{result.stem}.py"
    return own if own.is_file() else BENCHMARKS / f"{result.stem.partition('-')[0]}.py"


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
    """Where the figures are: the first mapping on the way down that holds some has all below it, flat."""
    if not path and (own := {name: item for name, item in _kept(value).items() if _is_figure(item)}):
        yield ("figures", "this result"), own
    for name, item in _kept(value).items():
        if not isinstance(item, Mapping) or _is_figure(item):
            continue
        if any(_is_figure(one) for one in _kept(item).values()):
            yield (*path, name), dict(_flat(item, ""))
        else:
            yield from _arms(item, (*path, name))


def _kept(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in value.items() if name not in LEFT_OUT}


def _flat(value: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, item in _kept(value).items():
        if _is_figure(item):
            yield f"{before}{name}", item
        elif isinstance(item, Mapping):
            yield from _flat(item, f"{before}{name} ")


def _is_figure(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "median" in value
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _figure(value: Any) -> str:
    if isinstance(value, Mapping):
        if "interval" in value:
            low, high = value["interval"]
            return f"{_number(value['median'])} [{_number(low)}, {_number(high)}]"
        rest = ", ".join(f"{name} {_number(item)}" for name, item in value.items() if name != "median")
        return f"{_number(value['median'])}" + (f" ({rest})" if rest else "")
    return _number(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
