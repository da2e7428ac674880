"""The answer as a recipe that runs as it is, with a comment on each line: what was given, what was found, and how it
did against the alternatives.
"""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from fulldeck.figures import figure
from fulldeck.recipe.recipe import PATHS
from fulldeck.tuning.goal import Aim
from fulldeck.tuning.history import Trial
from fulldeck.tuning.space import TRAIN, Space

WIDTH = 100
COLUMN = 44
"""Where comments begin, if a line is not longer."""
AS_GIVEN = "as in the recipe"
Line = tuple[str, str]


def best_recipe(
    trial: Trial, trials: Sequence[Trial], space: Space, aim: Aim, head: Sequence[str], file: Path
) -> str:
    """The text of `file`: the recipe of `trial`, with `head` above it. `trials` are those that it was chosen from."""
    recipe = space.build(trial.values)
    words = _Words(trial, trials, space, aim)
    value = recipe.resolved()
    lines: list[Line] = _workload(value["workload"], file)
    if value["hardware"] != "auto":
        lines.append((f"hardware: {value['hardware']}", AS_GIVEN))
    lines.append((f"{TRAIN}:", "what it says nothing of is taken from the workload"))
    lines += [(f"  {key}: {_flow(item)}", words.of(f"{TRAIN}.{key}")) for key, item in value["train"].items()]
    lines.append(("instructions:", "in the order in which they act, as far as rules leave it open"))
    for entry in value["instructions"]:
        name, parameters = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
        lines.append((f"  - {name}{':' if parameters else ''}", words.of(name)))
        lines += [
            (f"      {key}: {_flow(item)}", words.of(f"{name}.{key}")) for key, item in parameters.items()
        ]
    for name in space.own:
        if not space.used(name, trial.values):
            lines.append((f"  # left out: {name}", words.of(name)))
    if recipe.order != "free":
        lines.append((f"order: {recipe.order}", AS_GIVEN))
    text = [line for sentence in head for line in _comment(sentence)]
    return "\n".join([*text, *(_written(*line) for line in lines)]) + "\n"


class _Words:
    """What is said of each decision."""

    def __init__(self, trial: Trial, trials: Sequence[Trial], space: Space, aim: Aim) -> None:
        self.trial = trial
        self.trials = trials
        self.space = space
        self.aim = aim
        self.searched = {choice.key for choice in space.choices}

    def of(self, key: str) -> str:
        if key not in self.searched or key not in self.trial.values:
            return AS_GIVEN
        value, given = self.trial.values[key], self.space.given.get(key)
        if value == given:
            begin = "kept"
        elif isinstance(value, bool) and "." not in key:
            begin = "added" if value else "taken out"
        else:
            begin = "new" if given is None else f"was {_flow(given)}"
        return f"{begin}{self._against(key, value)}"

    def _against(self, key: str, value: Any) -> str:
        same = [one for one in self.trials if one.values.get(key) == value]
        others = [one for one in self.trials if key in one.values and one.values[key] != value]
        if not others:
            return ""
        return f"; best {self._best(same)}, otherwise {self._best(others)}"

    def _best(self, trials: Sequence[Trial]) -> str:
        name, direction = self.aim.objective.figure, self.aim.objective.direction
        found = [one.figures[name] for one in trials if one.figures is not None]
        if not found:
            return "unknown"
        return figure(name, min(found) if direction == "minimize" else max(found))


def _comment(sentence: str) -> list[str]:
    return textwrap.wrap(
        sentence, WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False
    )


def _workload(value: str | Mapping[str, Any], file: Path) -> list[Line]:
    if isinstance(value, str):
        return [(f"workload: {value}", AS_GIVEN)]
    settings = dict(value)
    for key in PATHS:
        path = Path(str(settings.get(key, "")))
        if key in settings and path.exists() and not path.is_absolute():
            settings[key] = os.path.relpath(path, file.parent)
    return [
        ("workload:", AS_GIVEN),
        *((f"  {key}: {_flow(item)}", AS_GIVEN) for key, item in settings.items()),
    ]


def _written(text: str, comment: str) -> str:
    return f"{text:<{COLUMN - 1}} # {comment}" if comment else text


def _flow(value: Any) -> str:
    """A value in YAML's flow style, on one line."""
    yaml = YAML()
    yaml.default_flow_style = True
    yaml.width = 10_000
    stream = io.StringIO()
    yaml.dump({"value": value}, stream)
    return stream.getvalue().strip().removeprefix("{value: ").removesuffix("}")
