"""A recipe's file, read and checked whole: every problem at once, each with file and line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from fulldeck.catalogue import catalogue
from fulldeck.declared import Refused
from fulldeck.errors import BadInput, closest
from fulldeck.hardware.profile import Profile, find_profile
from fulldeck.recipe.recipe import ENTRY_KEYS, PATHS, Entry, Goal, Recipe, Train
from fulldeck.recipe.settings import change
from fulldeck.recipe.shipped import shipped_recipes
from fulldeck.trackers import make_tracker
from fulldeck.trackers.tracker import Tracker
from fulldeck.workload import Workload
from fulldeck.workloads import make_workload
from fulldeck.yaml_file import Lines, Place, read_yaml


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that is shipped (`digits`).

    Raises BadInput naming the closest shipped recipe.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists():
        if not path.is_file():
            raise BadInput(f"recipe {path} does not exist" if not path.exists() else f"{path} is not a file")
        return path
    shipped = shipped_recipes()
    if str(name) in shipped:
        return shipped[str(name)]
    raise BadInput(
        f'there is no recipe "{name}"{closest(str(name), shipped)}; shipped are {", ".join(sorted(shipped))}'
    )


def read_recipe(name: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe; `settings` are changes such as `train.epochs=3`.

    Raises Refused with every problem, each with file and line, or BadInput.
    """
    path = find_recipe(name)
    value, lines = read_yaml(path)
    if not isinstance(value, dict):
        raise BadInput("a recipe is a mapping that begins with workload:", f"{path}:1")
    changed = [change(value, setting) for setting in settings]
    return _Reader(value, lines, str(path), changed).recipe(path.stem)


class _Reader:
    """Checks one recipe and gathers its problems."""

    KEYS = ("workload", "hardware", "train", "instructions", "goal", "search", "order", "trackers")

    def __init__(self, value: dict[str, Any], lines: Lines, file: str, changed: list[Place]) -> None:
        self.value = value
        self.lines = lines
        self.file = file
        self.changed = changed
        self.problems: list[BadInput] = []
        self.profile: Profile | None = None

    def recipe(self, name: str) -> Recipe:
        aliases = {entry.recipe_key: entry.name for entry in catalogue() if entry.recipe_key}
        for key in self.value:
            if key not in self.KEYS and key not in aliases:
                inner = [f"train.{name}" for name in Train.model_fields if "." not in str(key)]
                near = closest(str(key), (*self.KEYS, *aliases, *inner))
                self._problem(f'unknown key "{key}" in a recipe{near}', (key,))
        workload = self._workload()
        train = self._declared(Train, "train") or Train()
        goal = self._declared(Goal, "goal")
        order = self._choice("order", ("free", "strict"))
        self.profile = self._hardware()
        if self.profile is not None and train.device == "auto":
            train = train.replace(device=self.profile.device)
        entries = self._entries() + [
            entry
            for key, alias in aliases.items()
            if key in self.value and (entry := self._entry({alias: self.value[key]}, (key,))) is not None
        ]
        trackers = self._trackers()
        search = self.value.get("search")
        if search is not None and not isinstance(search, dict):
            self._problem(
                "search must be a mapping, such as lr_scheduler.kind: [cosine, one_cycle]", ("search",)
            )
        if self.problems:
            raise Refused(self.problems)
        assert workload is not None
        strict: Literal["free", "strict"] = "strict" if order == "strict" else "free"
        hardware = str(self.value.get("hardware", "auto"))
        return Recipe(
            name, workload, tuple(entries), train, hardware, goal, strict, trackers, self.profile, search
        )

    def _hardware(self) -> Profile | None:
        """The profile that is named; None for auto, where each instruction looks at the machine itself."""
        name = self.value.get("hardware", "auto")
        if name == "auto":
            return None
        beside = Path(self.file).parent / str(name)
        try:
            return find_profile(beside if beside.is_file() else str(name))
        except BadInput as error:
            self._problem(str(error), ("hardware",))
            return None

    def _workload(self) -> Workload | None:
        if "workload" not in self.value:
            self._problem("a recipe needs workload: such as digits", ())
            return None
        value = self.value["workload"]
        if not isinstance(value, (str, dict)):
            self._problem("workload must be a name or a mapping with kind", ("workload",))
            return None
        try:
            return make_workload(self._beside_recipe(value))
        except BadInput as error:
            self._refused(error, ("workload",))
            return None

    def _beside_recipe(self, value: str | dict[str, Any]) -> str | dict[str, Any]:
        """A relative path is meant from where the command runs, else from the recipe's folder.

        A user's code is looked for in that folder too.
        """
        if not isinstance(value, dict):
            return value
        folder = Path(self.file).parent
        if value.get("kind") == "python" and "path" not in value:
            return value | {"path": str(folder)}
        paths = {key: value[key] for key in PATHS if isinstance(value.get(key), str)}
        found = {key: folder / path for key, path in paths.items() if not Path(path).exists()}
        return value | {key: str(beside) for key, beside in found.items() if beside.exists()}

    def _declared(self, kind: type[Any], key: str) -> Any:
        value = self.value.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self._problem(f"{key} must be a mapping", (key,))
            return None
        try:
            return kind(**value)
        except BadInput as error:
            self._refused(error, (key,))
            return None

    def _choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.value.get(key, choices[0])
        if value not in choices:
            self._problem(f"{key} must be {' or '.join(choices)}, got {value!r}", (key,))
        return str(value)

    def _entries(self) -> list[Entry]:
        entries = [self._entry(item, place) for item, place in self._list("instructions")]
        return [entry for entry in entries if entry is not None]

    def _trackers(self) -> tuple[Tracker, ...]:
        trackers: dict[str, Tracker] = {}
        for item, place in self._list("trackers"):
            if (named := self._named(item, place, "a tracker")) is None:
                continue
            name, parameters = named
            if name in trackers:
                self._problem(f"tracker {name} may stand only once", place)
            try:
                trackers[name] = make_tracker(name, parameters)
            except BadInput as error:
                self._refused(error, (*place, name))
        return tuple(trackers.values())

    def _list(self, key: str) -> list[tuple[Any, Place]]:
        items = self.value.get(key) or []
        if not isinstance(items, list):
            self._problem(f"{key} must be a list: begin each with a dash", (key,))
            return []
        return [(item, (key, place)) for place, item in enumerate(items)]

    def _named(self, item: Any, place: Place, what: str) -> tuple[str, dict[str, Any]] | None:
        """A bare name, or one name with its parameters."""
        name: Any
        parameters: Any
        if isinstance(item, str):
            name, parameters = item, {}
        elif isinstance(item, dict) and len(item) == 1:
            name, parameters = next(iter(item.items()))
            parameters = parameters if parameters is not None else {}
        elif isinstance(item, dict) and len(item) > 1 and next(iter(item.values())) is None:
            name, *deeper = item
            words = f"indent {', '.join(map(str, deeper))} by two more, so that it belongs to {name}"
            self._problem(words, (*place, deeper[0]))
            return None
        else:
            self._problem(f"{what} is a name, or one name with its parameters: name: {{key: value}}", place)
            return None
        if not isinstance(parameters, dict):
            self._problem(f"the parameters of {name} must be a mapping", (*place, name))
            return None
        return str(name), parameters

    def _entry(self, item: Any, place: Place) -> Entry | None:
        if (named := self._named(item, place, "an instruction")) is None:
            return None
        name, parameters = named
        flags = {key: parameters[key] for key in ENTRY_KEYS if key in parameters}
        for key, value in flags.items():
            if not isinstance(value, bool):
                self._problem(f"{name}.{key} must be true or false, got {value!r}", (*place, name, key))
        try:
            cls = catalogue().find(name).load()
            rest = {key: value for key, value in parameters.items() if key not in ENTRY_KEYS}
            if self.profile is not None:
                rest = {**self.profile.parameters(name), **rest}
            return Entry(cls(**rest), **flags, where=self._where(place))
        except BadInput as error:
            self._refused(error, (*place, name))
            return None

    def _refused(self, error: BadInput, place: Place) -> None:
        for problem in error.problems if isinstance(error, Refused) else [error]:
            self._problem(problem.message, (*place, *getattr(problem, "path", ())))

    def _problem(self, message: str, place: Place) -> None:
        self.problems.append(BadInput(message, self._where(place)))

    def _where(self, place: Place) -> str:
        for changed in self.changed:
            if place[: len(changed)] == changed:
                return "--set"
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.file}:{self.lines.get(place, 1)}"
