"""The catalogue: what instructions there are, read without importing any of them.

`catalogue.json` beside this file is generated from the code (`python -m fulldeck.generate`); the tests
say when it is stale. Third-party instructions come by the entry-point group `fulldeck.instructions`: from
a `catalogue.json` in their package, or, where there is none, by importing them.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fulldeck.errors import BadInput, closest

if TYPE_CHECKING:
    from pydantic import BaseModel

    from fulldeck.instruction import Instruction

FILE = Path(__file__).with_name("catalogue.json")
GROUP = "fulldeck.instructions"
FIRST_PLUGIN_NUMBER = 100
REGENERATE = "regenerate it with: python -m fulldeck.generate"


@dataclass(frozen=True)
class Entry:
    """One instruction as the catalogue knows it; all values are plain JSON."""

    name: str
    number: int
    stage: str
    title: str
    module: str
    class_name: str
    functions: tuple[str, ...]
    doors: tuple[str, ...]
    touches: tuple[str, ...]
    after: Mapping[str, str]
    before: Mapping[str, str]
    conflicts: Mapping[str, str]
    extras: tuple[str, ...]
    kinds: tuple[str, ...]
    repeatable: bool
    recipe_key: str | None
    goals: tuple[str, ...]
    evidence: Mapping[str, Any]
    parameters: Mapping[str, Any]
    doc: str

    @property
    def built_in(self) -> bool:
        """True if it comes with fulldeck itself."""
        return self.number < FIRST_PLUGIN_NUMBER

    @property
    def use_when(self) -> str:
        """What its documentation says after `Use when:`."""
        found = re.search(r"^Use when:\s*(.+?)(?=^\S[^:\n]*:|\Z)", self.doc, re.MULTILINE | re.DOTALL)
        return " ".join(found[1].split()) if found else ""

    def load(self) -> type[Instruction]:
        """Import the class."""
        cls: type[Instruction] = getattr(importlib.import_module(self.module), self.class_name)
        return cls


@dataclass(frozen=True)
class Catalogue:
    """All instructions by name, in the order of their numbers, and the plugins that could not be read."""

    entries: Mapping[str, Entry]
    broken: Mapping[str, str]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def find(self, name: str) -> Entry:
        """The entry called `name` (or numbered so). Raises BadInput with the closest name."""
        if name in self.entries:
            return self.entries[name]
        for entry in self:
            if name.isdigit() and entry.number == int(name):
                return entry
        if name in self.broken:
            raise BadInput(f'plugin "{name}" is broken: {self.broken[name]}')
        near = closest(name, self.entries)
        if near:
            near = near.replace("?", f" ({self.entries[near.split()[-1].rstrip('?')].number})?")
        raise BadInput(f'unknown instruction "{name}"{near or "; fulldeck list shows them all"}')


@cache
def catalogue() -> Catalogue:
    """The built-in instructions and those of installed plugins."""
    return with_plugins(built_in(), tuple(entry_points(group=GROUP)))


@cache
def built_in() -> tuple[Entry, ...]:
    """The instructions that come with fulldeck, from `catalogue.json`."""
    return tuple(_entry(value) for value in json.loads(FILE.read_bytes())["instructions"])


def with_plugins(own: tuple[Entry, ...], points: tuple[EntryPoint, ...]) -> Catalogue:
    """Add third-party instructions; one that cannot be read is named with the reason, never swallowed."""
    entries = {entry.name: entry for entry in own}
    numbers = {entry.number: entry.name for entry in own}
    broken: dict[str, str] = {}
    for point in sorted(points, key=lambda point: point.name):
        try:
            entry = _plugin(point)
        except Exception as error:  # a plugin is somebody else's code: whatever it raises is its own fault
            broken[point.name] = f"{type(error).__name__}: {error}"
            continue
        if entry.number < FIRST_PLUGIN_NUMBER:
            broken[point.name] = (
                f"number {entry.number} is reserved; plugins take {FIRST_PLUGIN_NUMBER} and up"
            )
        elif entry.name in entries:
            broken[point.name] = f"the name {entry.name} is taken by {entries[entry.name].module}"
        elif entry.number in numbers:
            broken[point.name] = f"the number {entry.number} is taken by {numbers[entry.number]}"
        else:
            entries[entry.name] = entry
            numbers[entry.number] = entry.name
    ordered = sorted(entries.values(), key=lambda entry: entry.number)
    return Catalogue({entry.name: entry for entry in ordered}, broken)


def _plugin(point: EntryPoint) -> Entry:
    top = find_spec(point.module.split(".")[0])
    if top is None or top.origin is None:
        raise ModuleNotFoundError(f"no module named {point.module}")
    file = Path(top.origin).with_name("catalogue.json")
    if file.is_file():
        for value in json.loads(file.read_bytes())["instructions"]:
            if (value["module"], value["class_name"]) == (point.module, point.attr):
                return _entry(value)
    return describe(point.load())


def describe(cls: type[Instruction]) -> Entry:
    """The catalogue's entry for an instruction class."""
    card = cls.card
    module = sys.modules[cls.__module__]
    functions = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and name in getattr(module, "__all__", [name])
        and not name.startswith("_")
        and value.__module__.startswith(module.__name__)
    ]
    return Entry(
        name=card.name,
        number=card.number,
        stage=card.stage,
        title=card.title,
        module=cls.__module__,
        class_name=cls.__name__,
        functions=tuple(functions),
        doors=cls.doors(),
        touches=tuple(sorted(card.touches)),
        after=card.after,
        before=card.before,
        conflicts=card.conflicts,
        extras=card.extras,
        kinds=tuple(sorted(card.kinds)),
        repeatable=card.repeatable,
        recipe_key=card.recipe_key,
        goals=tuple(sorted(card.goals)),
        # A list, as JSON has it.
        evidence=asdict(card.evidence) | {"beside": list(card.evidence.beside)},
        parameters=parameters_of(cls),
        doc=inspect.cleandoc(module.__doc__ or ""),
    )


def _entry(value: Mapping[str, Any]) -> Entry:
    if missing := [field.name for field in fields(Entry) if field.name not in value]:
        raise ValueError(f"its catalogue.json lacks {missing[0]}; {REGENERATE} PACKAGE")
    values: dict[str, Any] = {field.name: value[field.name] for field in fields(Entry)}
    values |= {name: tuple(item) for name, item in values.items() if isinstance(item, list)}
    return Entry(**values)


def parameters_of(cls: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of each field of a description, by name."""
    return {
        name: {key: value for key, value in definition.items() if key != "title"}
        for name, definition in cls.model_json_schema().get("properties", {}).items()
    }
