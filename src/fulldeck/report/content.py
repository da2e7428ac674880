"""What a report says, section by section, from the files of a run; a section without data is empty."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from fulldeck.catalogue import catalogue
from fulldeck.report.drawings import calibration, predictions, residuals
from fulldeck.report.headline import conversions, headline
from fulldeck.report.panels import learning_curves
from fulldeck.report.run_files import EXPECTED, RunFiles
from fulldeck.report.waterfall import waterfall
from fulldeck.report.words import shown
from fulldeck.run_folder import RECIPE, example_of

ENDED = {
    "failed": "This run failed",
    "interrupted": "This run was interrupted",
    "running": "This run is still going on: the page shows what it had written when it was made",
    "stopped": "This run was stopped from outside (killed, or the machine went down) before it was finished",
    "unknown": "How this run ended is not known",
}
"""What the page says of a status other than finished."""


def report_content(run: RunFiles) -> dict[str, Any]:
    """The variables of report.html."""
    sentence, tiles = headline(run)
    result, evaluation = run.result, run.evaluation
    regression = evaluation.get("regression") or {}
    classification = evaluation.get("classification") or {}
    points = regression.get("points")
    phases = _phases(run.metrics)
    return {
        "run": run,
        "sentence": sentence,
        "tiles": tiles,
        "ended": ENDED.get(run.status, ""),
        "error": result.get("error", ""),
        "missing": [(name, EXPECTED[name], reason) for name, reason in run.missing.items()],
        "seconds": result.get("seconds") or {},
        "metrics": result.get("metrics") or {},
        "plan": _plan(run),
        "panels": learning_curves({"": run.metrics})
        + [chart for item in result.get("instructions", []) for chart in item.get("charts", [])],
        "changes": _changes(result.get("instructions", [])),
        "conversions": conversions(run),
        "artifacts": [
            {**item, "there": (run.folder / item["path"]).is_file()} for item in result.get("artifacts", [])
        ],
        "rehearsal": result.get("rehearsal"),
        "evaluation": evaluation,
        "classification": classification,
        "matrix": _matrix(classification),
        "calibration": calibration(classification["calibration"])
        if classification.get("calibration")
        else None,
        "regression": regression,
        "predictions": predictions(points) if points else None,
        "residuals": residuals(points) if points else None,
        "phases": waterfall(phases, {name: shown("step_ms", ms) for name, ms in phases.items()}),
        "step_ms": sum(phases.values()),
        "machine": result.get("machine") or {},
        "notes": result.get("notes", []),
        "commands": _commands(run),
    }


def _plan(run: RunFiles) -> list[dict[str, Any]]:
    """Each step with what it does, as the catalogue has it, and how it went."""
    known = {entry.name: entry for entry in catalogue()}
    went = {item.get("label", item["name"]): item for item in run.result.get("instructions", [])}
    return [
        {
            **step,
            "title": known[step["name"]].title if step["name"] in known else "",
            "status": went.get(step["label"], {}).get("status", ""),
            "skipped": went.get(step["label"], {}).get("reason") or step.get("skipped"),
        }
        for step in run.steps
    ]


def _changes(instructions: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], dict[str, Any]]]:
    """The instructions that changed a figure, with the figures that read other than before."""
    found = []
    for item in instructions:
        figures = {
            name: change
            for name, change in item.get("changes", {}).items()
            if shown(name, change.get("before")) != shown(name, change.get("after"))
        }
        if figures:
            found.append((item, figures))
    return found


def _matrix(classification: Mapping[str, Any]) -> list[tuple[str, list[tuple[int, str]]]]:
    """Rows of the confusion matrix: the class, and of each cell the count and its share of the row."""
    rows = []
    for name, counts in zip(
        classification.get("classes", []), classification.get("confusion") or [], strict=False
    ):
        total = sum(counts) or 1
        rows.append((name, [(count, f"{count / total:.2f}".removeprefix("0")) for count in counts]))
    return rows


def _phases(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean milliseconds of each phase of a step over the whole training; empty where they were not kept."""
    totals: dict[str, float] = {}
    steps = 0
    for line in metrics:
        count = line["step"] - steps
        steps = line["step"]
        for name, value in (line.get("phases_ms") or {}).items():
            totals[name] = totals.get(name, 0.0) + value * count
    return {name: value / steps for name, value in totals.items()} if steps else {}


def _commands(run: RunFiles) -> list[tuple[str, str]]:
    """What to type to have all this again: the command and what it does."""
    folder = shlex.quote(str(run.folder))
    versions = (run.result.get("machine") or {}).get("versions", {})
    pins = [f"{name}=={found.partition('+')[0]}" for name, found in versions.items() if name != "python"]
    lines = []
    if pins:
        lines.append(
            (f"pip install {' '.join(pins)}", f"the same versions, in Python {versions.get('python', '')}")
        )
    if RECIPE not in run.missing:
        recipe = shlex.quote(str(run.folder / RECIPE))
        lines.append((f"fulldeck run {recipe}", "the same run, from where this one was started"))
    if run.status not in ("finished", "running"):
        lines.append(("fulldeck run RECIPE --resume", "go on with this one; RECIPE as it was started"))
    if (run.folder / "package" / "manifest.json").is_file():
        lines.append((f"fulldeck serve {folder}", "serve its model"))
        if (kept := example_of(run.folder)) is not None:
            lines.append(
                (f"fulldeck predict {folder} {shlex.quote(str(kept))}", "ask it about one test item")
            )
    lines.append((f"fulldeck report {folder}", "write this page again"))
    return lines
