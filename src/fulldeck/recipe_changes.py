"""Two recipes side by side: which settings differ, by the names that `--set` takes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from fulldeck.errors import BadInput
from fulldeck.yaml_file import parse_yaml

NAMED = 5
"""Most settings that a message names."""
ABSENT = object()
"""In place of a setting that only the other recipe has."""


def settings_of(recipe: str) -> dict[str, Any]:
    """A recipe's text (YAML) as dotted names to plain values; an instruction itself has the value True.

    The second instruction of a name is `instructions.NAME#2`. Raises BadInput for what is no recipe.
    """
    value, _ = parse_yaml(recipe)
    if not isinstance(value, dict):
        raise BadInput("a recipe is a mapping")
    settings = _flat({key: item for key, item in value.items() if key not in ("workload", "instructions")})
    workload = value.get("workload")
    settings |= _flat({"workload": workload if isinstance(workload, dict) else {"kind": workload}})
    for item in value.get("instructions") or []:
        name, parameters = next(iter(item.items())) if isinstance(item, dict) else (item, {})
        label, count = f"instructions.{name}", 2
        while label in settings:
            label, count = f"instructions.{name}#{count}", count + 1
        settings[label] = True
        settings |= {f"{label}.{key}": parameter for key, parameter in (parameters or {}).items()}
    return settings


def changed_settings(there: str, here: str) -> dict[str, tuple[Any, Any]]:
    """The settings in which two recipes' texts differ: name to (there, here), one of which may be ABSENT."""
    one, other = settings_of(there), settings_of(here)
    names = list(dict.fromkeys((*one, *other)))
    pairs = {name: (one.get(name, ABSENT), other.get(name, ABSENT)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] is ABSENT or pair[0] != pair[1]}


def describe_changes(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """`train.epochs: 20 there, 3 here`, and so on for the first few."""
    said = [_said(name, there, here) for name, (there, here) in list(changes.items())[:NAMED]]
    more = f" and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
    return ", ".join(said) + more


def flags_back(changes: Mapping[str, tuple[Any, Any]]) -> str | None:
    """The `--set` flags that take back `changes`, or None where flags cannot."""
    if any(there is ABSENT or (there is True and here is ABSENT) for there, here in changes.values()):
        return None
    if len(changes) > NAMED:
        return None
    flags = [("--set", f"{name}={json.dumps(there)}") for name, (there, _) in changes.items()]
    return shlex.join(word for flag in flags for word in flag)


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{before}{key}.") if isinstance(item, dict) else {f"{before}{key}": item}
    return flat


def _said(name: str, there: Any, here: Any) -> str:
    if there is ABSENT or here is ABSENT:
        return f"{name}: only {'here' if there is ABSENT else 'there'}"
    return f"{name}: {json.dumps(there)} there, {json.dumps(here)} here"
