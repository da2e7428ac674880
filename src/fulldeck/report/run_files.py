"""The files of a run, as far as they are there: what is missing or unreadable is named with the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from fulldeck.errors import BadInput, RunFailed
from fulldeck.run_folder import EVALUATION, METRICS, PLAN, RECIPE, RESULT, RunFolder
from fulldeck.yaml_file import parse_yaml

EXPECTED = {
    RECIPE: "what was asked for",
    PLAN: "the order of the instructions and its reasons",
    RESULT: "how the run ended, its figures and the machine",
    METRICS: "the learning curves",
    EVALUATION: "the close look at single examples",
}
"""What a finished run leaves, and what a report has from it."""
LATE = (METRICS, EVALUATION)
"""Written after training has begun."""
ABSENT = "it is not in the folder"


@dataclass(frozen=True)
class RunFiles:
    """The content of a run folder; empty where a file is missing."""

    folder: Path
    """As it was named, with `latest` and other links resolved."""
    recipe_text: str
    recipe: Mapping[str, Any]
    steps: Sequence[Mapping[str, Any]]
    result: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any]
    status: str
    """finished, failed, interrupted, running, stopped (it runs no more and said nothing) or unknown."""
    missing: Mapping[str, str]
    """File name to why the report has nothing from it."""

    @property
    def name(self) -> str:
        """Of the recipe, or of the folder."""
        return str(self.result.get("recipe") or self.folder.name)

    @property
    def began(self) -> str:
        """Date and time in the folder's name, or the empty string."""
        try:
            return datetime.strptime(self.folder.name[:15], "%Y%m%d-%H%M%S").strftime("%d %B %Y, %H:%M")
        except ValueError:
            return ""

    @property
    def last_split(self) -> tuple[str, Mapping[str, float]]:
        """The split that training saw least of, and its metrics; empty before anything was evaluated."""
        splits = self.result.get("metrics") or {}
        return next(reversed(splits.items()), ("", {}))


def read_run(run: Path, result: Mapping[str, Any] | None = None) -> RunFiles:
    """Read what there is of a run; with `result`, as if result.json held it already.

    Raises BadInput where `run` is no run folder.
    """
    if not run.is_dir():
        raise BadInput(f"{run} does not exist" if not run.exists() else f"{run} is not a folder")
    if not any((run / name).is_file() for name in EXPECTED):
        raise BadInput(
            f"{run} is not a run: it has no {RECIPE}, {PLAN}, {RESULT} or {METRICS}; "
            "give a folder that fulldeck run made, such as runs/latest"
        )
    folder = _short(run)
    missing: dict[str, str] = {}
    recipe_text = _text(folder / RECIPE, missing)
    plan = _mapping(folder / PLAN, missing)
    if result is None:
        result = _mapping(folder / RESULT, missing)
    metrics = _lines(folder / METRICS, missing)
    evaluation = _mapping(folder / EVALUATION, missing)
    status = _status(folder, result)
    if status != "finished":
        # It has not come that far: how it ended is reason enough.
        missing = {name: why for name, why in missing.items() if name not in LATE or why != ABSENT}
    return RunFiles(
        folder,
        recipe_text,
        _recipe(recipe_text, missing),
        plan.get("steps", []),
        result,
        metrics,
        evaluation,
        status,
        missing,
    )


@contextmanager
def known_form(*runs: Path) -> Iterator[None]:
    """Raises RunFailed in one line for files that hold something else than this version writes."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, TemplateError) as error:
        raise RunFailed(
            f"a file in {' or '.join(map(str, runs))} has not the form that this version of fulldeck writes "
            f"({type(error).__name__}: {error}); was it changed by hand, or written by another version?"
        ) from error


def _short(run: Path) -> Path:
    """`run` without links, and below the working folder relative to it: commands on the page are copied."""
    path = run.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _status(folder: Path, result: Mapping[str, Any]) -> str:
    status = str(result.get("status", "unknown"))
    if status != "running":
        return status
    try:
        with RunFolder(folder).locked():
            return "stopped"
    except (BadInput, OSError):
        return "running"


def _text(path: Path, missing: dict[str, str]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        missing[path.name] = ABSENT
    except OSError as error:
        missing[path.name] = f"it cannot be read: {(error.strerror or str(error)).lower()}"
    except UnicodeDecodeError:
        missing[path.name] = "it is not UTF-8 text"
    return ""


def _mapping(path: Path, missing: dict[str, str]) -> dict[str, Any]:
    text = _text(path, missing)
    if path.name in missing:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        missing[path.name] = f"it is not JSON: {error}"
        return {}
    if isinstance(value, dict):
        return value
    missing[path.name] = "it is not a JSON object"
    return {}


def _lines(path: Path, missing: dict[str, str]) -> list[Mapping[str, Any]]:
    """Of a JSON-lines file; the last line may have been cut off by whoever stopped the run."""
    values: list[Mapping[str, Any]] = []
    for number, line in enumerate(_text(path, missing).splitlines(), 1):
        try:
            value = json.loads(line)
        except ValueError:
            missing[path.name] = f"line {number} is cut off; the curves end before it"
            break
        if not (isinstance(value, dict) and {"epoch", "step"} <= value.keys()):
            missing[path.name] = f"line {number} tells of no epoch; the curves end before it"
            break
        values.append(value)
    return values


def _recipe(text: str, missing: dict[str, str]) -> Mapping[str, Any]:
    try:
        value, _ = parse_yaml(text, RECIPE)
    except BadInput as error:
        missing[RECIPE] = str(error)
        return {}
    return value if isinstance(value, dict) else {}
