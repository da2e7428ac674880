"""Runs side by side: what was asked for differently, what came out, and whether they may be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from fulldeck.errors import BadInput
from fulldeck.figures import duration, lower_is_better
from fulldeck.report.panels import Panel, learning_curves
from fulldeck.report.run_files import RunFiles, known_form, read_run
from fulldeck.report.words import SAME_TIME, shown
from fulldeck.run_folder import EVALUATION, RECIPE

MACHINE = ("processor", "cores", "threads", "accelerator", "system")
"""What times depend on; the load of the moment is not a property of a machine."""
SAID_OF_A_WORKLOAD = ("kind", "path", "data", "model", "factory")
MAX_RUNS = len(ascii_uppercase)


@dataclass(frozen=True)
class Row:
    """One figure or setting of all runs."""

    name: str
    values: Sequence[Any]
    """None where a run does not have it."""
    texts: Sequence[str]
    """The values as a person reads them."""
    best: frozenset[int] = frozenset()
    """Places of the runs that do best, where there is a best."""


@dataclass(frozen=True)
class Comparison:
    """Runs under the letters A, B, ... with all that differs."""

    runs: Mapping[str, RunFiles]
    recipe: Sequence[Row]
    """Settings that are not the same in all of them."""
    figures: Sequence[Row]
    panels: Sequence[Panel]
    warnings: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """For `fulldeck compare --json`."""
        return {
            "runs": [
                {"letter": letter, "run": run.folder, "status": run.status}
                for letter, run in self.runs.items()
            ],
            "warnings": self.warnings,
            "recipe": [{"name": row.name, "values": row.values} for row in self.recipe],
            "figures": [{"name": row.name, "values": row.values} for row in self.figures],
        }


def compare(folders: Sequence[Path]) -> Comparison:
    """Put runs side by side.

    Raises BadInput for fewer than two or more than MAX_RUNS, for one that is given twice, and for what is
    no run folder.
    """
    if not 2 <= len(folders) <= MAX_RUNS:
        raise BadInput(f"compare takes 2 to {MAX_RUNS} runs, got {len(folders)}")
    found: dict[Path, Path] = {}
    for folder in folders:
        same = found.setdefault(folder.resolve(), folder)
        if same is not folder:
            raise BadInput(f"{same} and {folder} are the same run; give each once")
    runs = dict(zip(ascii_uppercase, map(read_run, folders), strict=False))
    with known_form(*folders):
        return Comparison(
            runs,
            _settings_that_differ(runs),
            _figures_judged(runs),
            learning_curves({letter: run.metrics for letter, run in runs.items()}),
            _warnings(runs),
        )


def _settings_that_differ(runs: Mapping[str, RunFiles]) -> list[Row]:
    columns = [_settings(run) for run in runs.values()]
    labels = [[step["label"] for step in run.steps] for run in runs.values()]
    shared = set(labels[0]).intersection(*labels[1:])
    rows = []
    for name in dict.fromkeys(name for column in columns for name in column):
        values = [column.get(name) for column in columns]
        label, dot, _ = name.partition(".")
        of_one = dot and label not in shared and any(label in found for found in labels)
        if _differs(values) and any(value not in (None, []) for value in values) and not of_one:
            rows.append(Row(name, values, [_setting(value) for value in values]))
    order = [[label for label in found if label in shared] for found in labels]
    if _differs(order):
        texts = [", ".join(found) for found in order]
        rows.append(Row("order", texts, texts))
    return rows


def _figures_judged(runs: Mapping[str, RunFiles]) -> list[Row]:
    columns = [_figures(run) for run in runs.values()]
    alike = not _workloads_that_differ(runs)
    rows = []
    for name in dict.fromkeys(name for column in columns for name in column):
        values = [column.get(name) for column in columns]
        texts = [_figure(name, value) for value in values]
        rows.append(Row(name, values, texts, _best(name, values, texts) if alike else frozenset()))
    return rows


def _best(name: str, values: Sequence[Any], texts: Sequence[str]) -> frozenset[int]:
    """Where the best values stand; nowhere if all that have one read the same."""
    numbers = {place: value for place, value in enumerate(values) if isinstance(value, (int, float))}
    told_apart = len({texts[place] for place in numbers}) > 1
    if name == "training_steps" or not told_apart or _is_noise(name, list(numbers.values())):
        return frozenset()
    best = (min if lower_is_better(name) else max)(numbers.values())
    return frozenset(place for place in numbers if texts[place] == texts[values.index(best)])


def _is_noise(name: str, values: Sequence[float]) -> bool:
    """Whether the values are times of one measurement each that differ no more than such times do by themselves;
    the slowest of a hundred requests always does."""
    if not name.endswith(("_ms", "_seconds")):
        return False
    return "p99" in name or max(values) < SAME_TIME * min(values)


def _workloads_that_differ(runs: Mapping[str, RunFiles]) -> list[str]:
    """Each setting of the workload that differs, with its values; none where the judged examples are the same,
    however the recipes name them (a target may be given or inferred)."""
    if _same([run.evaluation.get("fingerprint") for run in runs.values()]):
        return []
    known = {letter: _workload(run) for letter, run in runs.items() if RECIPE not in run.missing}
    if _differs([workload.get("kind") for workload in known.values()]):
        words = {
            letter: " ".join(str(workload[key]) for key in SAID_OF_A_WORKLOAD if key in workload)
            for letter, workload in known.items()
        }
        return [_each(words)]
    flat = {letter: _flat(workload) for letter, workload in known.items()}
    found = []
    for name in dict.fromkeys(name for settings in flat.values() for name in settings):
        values = {letter: settings.get(name) for letter, settings in flat.items()}
        if _differs(list(values.values())):
            found.append(f"{name} {_each(values)}")
    return found


def _workload(run: RunFiles) -> Mapping[str, Any]:
    """As a mapping, also where the recipe has but the name of a built-in one."""
    workload = run.recipe.get("workload")
    return workload if isinstance(workload, Mapping) else {"kind": workload}


def _same(values: Sequence[Any]) -> bool:
    return None not in values and not _differs(values)


def _differs(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values)


def _settings(run: RunFiles) -> dict[str, Any]:
    """The recipe as dotted names; of the instructions what the plan resolved, defaults and all."""
    given = {key: value for key, value in run.recipe.items() if key != "instructions"}
    if "workload" in given:
        given["workload"] = _workload(run)
    settings = _flat(given)
    for step in run.steps:
        settings[step["label"]] = True
        settings |= {f"{step['label']}.{name}": value for name, value in step["parameters"].items()}
        settings |= {f"{step['label']}.{name}": True for name in ("optional", "tolerate") if step.get(name)}
    return settings


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{before}{key}.") if isinstance(item, Mapping) else {f"{before}{key}": item}
    return found


def _figures(run: RunFiles) -> dict[str, Any]:
    """Everything that came out as a number, the test metrics first; names end in the unit."""
    result = run.result
    figures: dict[str, Any] = {"status": run.status}
    for split, metrics in reversed((result.get("metrics") or {}).items()):
        figures |= {f"{split}_{name}": value for name, value in metrics.items()}
    for item in result.get("instructions", []):
        changes = item.get("changes", {})
        if {"bytes", "latency_ms"} <= changes.keys():
            # The last conversion is what is served.
            figures |= {
                "model_size_bytes": changes["bytes"]["after"],
                "model_latency_ms": changes["latency_ms"]["after"],
            }
    rehearsal = result.get("rehearsal") or {}
    figures |= {f"server_latency_{name}_ms": value for name, value in rehearsal.get("latency_ms", {}).items()}
    figures |= {
        "server_agreement": rehearsal.get("agreement"),
        "server_memory_bytes": rehearsal.get("memory_bytes"),
        "training_peak_memory_bytes": (result.get("memory") or {}).get("training_peak_bytes"),
    }
    figures["training_steps"] = (result.get("training") or {}).get("steps")
    seconds = result.get("seconds") or {}
    if "train" in seconds:
        figures["training_seconds"] = seconds["train"]
        figures["whole_run_seconds"] = round(sum(seconds.values()), 3)
    return {name: value for name, value in figures.items() if value is not None}


def _warnings(runs: Mapping[str, RunFiles]) -> list[str]:
    """What must be known before one run is called better than another."""
    found = [
        f"{letter} is {run.status}: it may lack figures"
        for letter, run in runs.items()
        if run.status != "finished"
    ]
    for letter, run in runs.items():
        lacks = {name: reason for name, reason in run.missing.items() if name != EVALUATION}
        found += [f"{letter} has no whole {name}: {reason}" for name, reason in lacks.items()]
    if workloads := _workloads_that_differ(runs):
        found.append(f"different workloads, so metrics cannot be compared: {'; '.join(workloads)}")
    sizes = {
        letter: run.evaluation["examples"] for letter, run in runs.items() if "examples" in run.evaluation
    }
    contents = {
        letter: run.evaluation["fingerprint"]
        for letter, run in runs.items()
        if "fingerprint" in run.evaluation
    }
    if _differs(list(sizes.values())):
        found.append(f"judged on different data (numbers of examples): {_each(sizes)}")
    elif _differs(list(contents.values())):
        found.append(f"judged on different data (fingerprints of the examples): {_each(contents)}")
    machines = {letter: run.result["machine"] for letter, run in runs.items() if run.result.get("machine")}
    for name in MACHINE:
        values = {letter: machine.get(name) for letter, machine in machines.items()}
        if _differs(list(values.values())):
            found.append(f"different {name}, so times cannot be compared: {_each(values)}")
    versions = {letter: machine.get("versions", {}) for letter, machine in machines.items()}
    for name in dict.fromkeys(name for item in versions.values() for name in item):
        values = {letter: item.get(name) for letter, item in versions.items()}
        if _differs(list(values.values())):
            found.append(f"different versions of {name}: {_each(values)}")
    return found


def _each(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{letter} {'none' if value is None else value}" for letter, value in values.items())


def _setting(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)


def _figure(name: str, value: Any) -> str:
    is_time = name.endswith("_seconds") and isinstance(value, (int, float))
    return duration(value) if is_time else shown(name, value)
