"""`--set`: changes of a recipe before it is checked."""

from __future__ import annotations

from typing import Any

from fulldeck.errors import BadInput, closest
from fulldeck.yaml_file import Place, parse_yaml


def change(value: dict[str, Any], setting: str) -> Place:
    """Apply `a.b=c` to the plain recipe; return the place that it changed."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise BadInput(f'--set takes key=value, such as train.epochs=3, got "{setting}"')
    new, _ = parse_yaml(text, f"--set {setting}")
    *parents, last = key.split(".")
    place: Place = ()
    here: Any = value
    if parents[:1] == ["instructions"] or (not parents and last == "instructions"):
        return _change_instruction(value, [*parents, last], new)
    for name in parents:
        place = (*place, name)
        if isinstance(here.get(name), str) and name == "workload":
            here[name] = {"kind": here[name]}
        here = here.setdefault(name, {})
        if not isinstance(here, dict):
            raise BadInput(f"--set {setting}: {'.'.join(map(str, place))} is not a mapping")
    here[last] = new
    return (*place, last)


def _change_instruction(value: dict[str, Any], path: list[str], new: Any) -> Place:
    """`instructions.NAME.PARAMETER=value`; NAME may be NAME#2 for the second of that name."""
    if len(path) != 3:
        raise BadInput("--set instructions takes instructions.NAME.PARAMETER=value")
    label, _, number = path[1].partition("#")
    entries = value.get("instructions") or []
    places = [
        i for i, entry in enumerate(entries) if entry == label or (isinstance(entry, dict) and label in entry)
    ]
    wanted = int(number or 1) - 1 if (number or "1").isdigit() else -1
    if not 0 <= wanted < len(places):
        names = [entry if isinstance(entry, str) else next(iter(entry), "") for entry in entries]
        raise BadInput(f'--set: the recipe has no instruction "{path[1]}"{closest(label, map(str, names))}')
    place = places[wanted]
    if isinstance(entries[place], str):
        entries[place] = {label: {}}
    parameters = entries[place][label] or {}
    entries[place] = {label: {**parameters, path[2]: new}}
    return ("instructions", place, label, path[2])
