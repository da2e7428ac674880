"""What is searched: which instructions to use, their parameters, and the settings of the training.

Every parameter brings the values worth trying from its declaration (`search` of `param`); it is a choice only where
its instruction is used. An instruction is a lever where its evidence speaks of the figure that is aimed at. `search:`
of a recipe takes the place of all that, and lists what may change:

    search:
      amp_optimizer: true                     # use it or not
      lr_scheduler.kind: [cosine, one_cycle]
      train.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from fulldeck.catalogue import Entry as Card
from fulldeck.catalogue import catalogue
from fulldeck.errors import BadInput, closest
from fulldeck.installed import missing_packages, owner_of
from fulldeck.instruction import GOALS, Situation
from fulldeck.planner import make_plan
from fulldeck.recipe.recipe import Entry, Recipe, Train
from fulldeck.tuning.trained import UNTIL_TRAINED

TRAIN = "train"
RATE_SPAN = 10.0
"""The learning rate is searched from a tenth of the recipe's to ten times of it."""
MOVED_BY: Mapping[str, frozenset[str]] = {
    "latency_p50_ms": frozenset({"latency", "artifact_bytes"}),
    "latency_p99_ms": frozenset({"latency", "artifact_bytes"}),
    "artifact_bytes": frozenset({"artifact_bytes"}),
    "server_memory_bytes": frozenset({"artifact_bytes"}),
    "train_seconds": frozenset({"step_time", "steps_to_target", "training_steps"}),
    "training_peak_bytes": frozenset({"peak_memory"}),
}
"""Figures of a run that are no quality of the model, to the figures of evidence that move them."""
OF_TRAINING = frozenset({"train_seconds", "training_peak_bytes"})
QUALITY = frozenset({"validation_loss", "steps_to_target"})
"""Figures of evidence that move every quality of the model."""

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """One decision: among `options`, or from `low` to `high`. `instruction` says where it matters (None: always)."""

    key: str
    options: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    instruction: str | None = None

    def holds(self, value: Any) -> bool:
        """Whether `value` is among what may be chosen."""
        if self.options:
            return value in self.options
        return isinstance(value, (int, float)) and self.low <= value <= self.high


@dataclass(frozen=True)
class Space:
    """All decisions about one recipe."""

    recipe: Recipe
    choices: tuple[Choice, ...]

    @cached_property
    def own(self) -> dict[str, Entry]:
        """The recipe's entries by the name of their instruction."""
        return {entry.instruction.card.name: entry for entry in self.recipe.entries}

    @cached_property
    def given(self) -> dict[str, Any]:
        """The decisions that the recipe itself has taken, as far as they are among the options."""
        values: dict[str, Any] = {}
        for choice in self.choices:
            name, _, parameter = choice.key.partition(".")
            if name == TRAIN:
                value = self.recipe.resolved()["train"].get(parameter)
            elif not parameter:
                value = name in self.own
            elif name in self.own:
                value = getattr(self.own[name].instruction, parameter)
            else:
                continue
            if choice.holds(value):
                values[choice.key] = value
        return values

    @cached_property
    def after_training(self) -> frozenset[str]:
        """The decisions that no training depends on."""
        found = set()
        for choice in self.choices:
            name = choice.key.partition(".")[0]
            if name != TRAIN and not UNTIL_TRAINED & set(catalogue().find(name).doors):
                found.add(choice.key)
        return frozenset(found)

    def with_instruction(self, name: str, parameters: Values) -> dict[str, Any] | None:
        """The recipe's own decisions, with one more instruction; None where that is not searched, or is there."""
        if name in self.own or all(choice.key != name for choice in self.choices):
            return None
        given = {f"{name}.{key}": value for key, value in parameters.items()}
        allowed = {choice.key: given[choice.key] for choice in self.choices if choice.key in given}
        return {**self.given, name: True, **allowed}

    def used(self, name: str, values: Values) -> bool:
        """Whether an instruction is in the recipe of these decisions."""
        return bool(values.get(name, name in self.own))

    def build(self, values: Values) -> Recipe:
        """The recipe of these decisions. Raises BadInput where an instruction refuses its parameters."""
        entries: list[Entry] = []
        added = [one.key for one in self.choices if "." not in one.key and one.key not in self.own]
        for name in (*self.own, *added):
            if not self.used(name, values):
                continue
            entry = self.own.get(name)
            instruction = entry.instruction if entry is not None else catalogue().find(name).load()()
            changes = _below(name, values)
            changed = instruction.replace(**changes) if changes else instruction
            # What the search has added may turn out to be impossible; what the user asked for stays as it was asked.
            entries.append(Entry(changed) if entry is None else replace(entry, instruction=changed))
        settings = _below(TRAIN, values)
        train = self.recipe.train.replace(**settings) if settings else self.recipe.train
        return replace(self.recipe, entries=tuple(entries), train=train)


def search_space(recipe: Recipe, situation: Situation, objective: str) -> Space:
    """What there is to decide about `recipe`: all that moves `objective`, a figure, or what its `search:` lists.

    Raises BadInput for a `search:` that names what is not there, and where nothing is left.
    """
    if recipe.search is None:
        chosen = _levers(recipe, situation, objective)
    else:
        chosen = [_narrowed(key, value) for key, value in recipe.search.items()]
    if not chosen:
        raise BadInput(
            "there is nothing to search: write under search: what may change, such as "
            "train.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}"
        )
    # An instruction is decided on before its parameters are.
    return Space(recipe, tuple(sorted(chosen, key=lambda one: one.instruction is not None)))


def _levers(recipe: Recipe, situation: Situation, objective: str) -> list[Choice]:
    own = {entry.instruction.card.name for entry in recipe.entries}
    found: list[Choice] = []
    for card in catalogue():
        if not _moves(card, objective, own=card.name in own):
            continue
        if card.name not in own and not _fits(card, recipe, situation):
            continue
        # What makes the split decides on what is judged, and what configures the server is not seen by a search.
        if "split" not in card.touches and "configure" not in card.doors:
            found.append(Choice(card.name, (False, True)))
        for name, definition in card.parameters.items():
            if options := definition.get("search"):
                found.append(Choice(f"{card.name}.{name}", tuple(options), instruction=card.name))
    if objective not in MOVED_BY or objective in OF_TRAINING:
        settings = recipe.resolved()["train"]
        rate, batch = settings["learning_rate"], settings["batch_size"]
        found += [
            Choice(f"{TRAIN}.learning_rate", low=rate / RATE_SPAN, high=rate * RATE_SPAN, log=True),
            Choice(f"{TRAIN}.batch_size", (max(batch // 2, 1), batch, 2 * batch)),
        ]
    return found


def _moves(card: Card, objective: str, *, own: bool) -> bool:
    """Whether what an instruction claims is about `objective`; where the recipe has it, also what it costs."""
    figures = {card.evidence["metric"], *(card.evidence["cost"] if own else ())}
    if objective in MOVED_BY:
        return bool(figures & MOVED_BY[objective])
    # What belongs into every recipe is no lever.
    lever = "accurate" in card.goals and len(card.goals) < len(GOALS)
    return objective in figures or bool(figures & QUALITY) or lever


def _fits(card: Card, recipe: Recipe, situation: Situation) -> bool:
    """Whether the recipe could have it: what it needs is installed, and there is a plan with it alone."""
    if any(missing_packages(owner_of(card.module), extra) for extra in card.extras):
        return False
    instruction = card.load()()
    try:
        make_plan(replace(recipe, entries=(Entry(instruction),)), situation)
    except BadInput:
        return False
    return True


def _narrowed(key: str, value: Any) -> Choice:
    name, _, parameter = str(key).partition(".")
    known: Mapping[str, Any] = Train.model_fields if name == TRAIN else catalogue().find(name).parameters
    if name == TRAIN and not parameter:
        raise BadInput("search: name a setting, such as train.learning_rate")
    if parameter and parameter not in known:
        raise BadInput(f'search: {name} has no parameter "{parameter}"{closest(parameter, known)}')
    if not parameter:
        if value is not True:
            raise BadInput(f"search: {key}: true means that it may be used or not; got {value!r}")
        return Choice(key, (False, True))
    instruction = None if name == TRAIN else name
    if isinstance(value, list) and value:
        return Choice(key, tuple(value), instruction=instruction)
    if isinstance(value, dict) and {"low", "high"} <= set(value) <= {"low", "high", "log"}:
        try:
            low, high = float(value["low"]), float(value["high"])
        except (TypeError, ValueError):
            raise BadInput(f"search: {key} goes from a number to a number; got {value!r}") from None
        if not low < high or (value.get("log") and low <= 0):
            raise BadInput(
                f"search: {key} goes from a smaller number to a larger one, and log needs positive ones"
            )
        return Choice(key, (), low, high, bool(value.get("log")), instruction)
    if value is True and instruction is not None and (options := known[parameter].get("search")):
        return Choice(key, tuple(options), instruction=instruction)
    raise BadInput(
        f"search: {key} takes a list of values, or {{low: ..., high: ..., log: true}}; got {value!r}"
    )


def _below(name: str, values: Values) -> dict[str, Any]:
    return {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{name}.")}
