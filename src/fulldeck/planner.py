"""The planner: which instruction goes where, and why; or every conflict at once.

It knows no instruction by name. Rules come from the instructions' cards (`order`, `clash`, `cannot`) and,
in general form, from what they touch:

- what makes the split goes before everything that is fitted;
- what changes the module goes before it is exported;
- two conversions of the deployed weights' dtype exclude each other;
- the same instruction twice needs to be repeatable.

The user's order decides where no rule does, among what acts at the same time.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

from fulldeck.declared import Refused
from fulldeck.errors import BadInput
from fulldeck.instruction import DOORS, Instruction, Situation, labels
from fulldeck.recipe.recipe import Entry, Recipe

WHEN = ("while data is prepared", "in training", "after training", "before serving", "never")
"""When each of `DOORS` opens."""
MODULE_CHANGES = frozenset({"weights", "graph", "modules", "dtype"})


@dataclass(frozen=True)
class Step:
    """One instruction in its place. `reasons` say why it stands there; `skipped` why it will not act."""

    label: str
    entry: Entry
    reasons: tuple[str, ...]
    skipped: str | None = None

    @property
    def instruction(self) -> Instruction:
        """The instruction of this step."""
        return self.entry.instruction

    def to_json(self) -> dict[str, Any]:
        """For plan.json and `fulldeck plan --json`."""
        card = self.instruction.card
        return {
            "label": self.label,
            "name": card.name,
            "number": card.number,
            "stage": card.stage,
            "doors": list(self.instruction.doors()),
            "parameters": self.instruction.model_dump(mode="json"),
            "optional": self.entry.optional,
            "tolerate": self.entry.tolerate,
            "reasons": list(self.reasons),
            "skipped": self.skipped,
        }


@dataclass(frozen=True)
class Plan:
    """A recipe resolved: its instructions in order."""

    recipe: Recipe
    situation: Situation
    steps: tuple[Step, ...]

    @property
    def acting(self) -> dict[str, Instruction]:
        """The instructions that will act, by label, in order."""
        return {step.label: step.instruction for step in self.steps if step.skipped is None}

    @property
    def skipped(self) -> dict[str, str | None]:
        """Why each instruction, by label, will not act; None for those that will."""
        return {step.label: step.skipped for step in self.steps}

    def deciding(self, skipped: Mapping[str, str | None]) -> Self:
        """The same plan where these decisions stand, which were made elsewhere or before.

        What is tried on a machine may come out otherwise the next time; one training must not change by it.
        """
        return replace(self, steps=tuple(replace(one, skipped=skipped[one.label]) for one in self.steps))


@dataclass(frozen=True)
class _Edge:
    first: str
    then: str
    reason: str


def make_plan(recipe: Recipe, situation: Situation) -> Plan:
    """Resolve `recipe` for `situation`.

    Raises Refused with every problem at once: conflicts, rules that contradict each other or the order
    that the recipe insists on, instructions that cannot act and are not optional.
    """
    problems: list[BadInput] = []
    named = labels(entry.instruction.card.name for entry in recipe.entries)
    steps = [Step(label, entry, ()) for label, entry in zip(named, recipe.entries, strict=True)]
    steps = [replace(step, skipped=_reason_to_skip(step, situation, problems)) for step in steps]
    acting = [step for step in steps if step.skipped is None]
    problems += _conflicts(acting)
    edges = _edges(steps)
    if recipe.order == "strict":
        problems += _against_given_order(steps, edges)
    order = _sorted(steps, edges)
    if order is None:
        cycle = _cycle(steps, edges)
        text = "; ".join(f"{e.first} goes before {e.then} ({e.reason})" for e in cycle)
        problems.append(BadInput(f"these order rules contradict each other: {text}; leave one of them out"))
    if problems or order is None:
        raise Refused(problems)
    written = {step.label: place for place, step in enumerate(steps)}
    placed = tuple(replace(step, reasons=_reasons(step, edges, written)) for step in order)
    return Plan(recipe, situation, placed)


def _reason_to_skip(step: Step, situation: Situation, problems: list[BadInput]) -> str | None:
    reason = step.instruction.cannot(situation)
    if reason is not None and not step.entry.optional:
        # Only a file has where to write that.
        advice = "leave it out" + (
            ", or write optional: true to go on without it" if step.entry.where else ""
        )
        problems.append(BadInput(f"{step.label} cannot act: {reason}; {advice}", step.entry.where))
    return reason


def _conflicts(steps: Sequence[Step]) -> list[BadInput]:
    problems = []
    for place, one in enumerate(steps):
        for other in steps[place + 1 :]:
            reason = _clash(one, other)
            if reason is not None:
                places = [step.entry.where for step in (one, other) if step.entry.where]
                problems.append(
                    BadInput(
                        f"{one.label} and {other.label} exclude each other: {reason}",
                        ", ".join(places) or None,
                    )
                )
    return problems


def _clash(one: Step, other: Step) -> str | None:
    a, b = one.instruction, other.instruction
    if a.card.name == b.card.name:
        return None if a.card.repeatable else "it may stand only once in a recipe; leave one out"
    reason = a.clash(b) or b.clash(a)
    if reason is not None:
        return reason
    if all("dtype" in i.card.touches and "optimise" in i.doors() for i in (a, b)):
        return "both convert the dtype of the deployed weights; leave one out"
    return None


def _edges(steps: Sequence[Step]) -> list[_Edge]:
    edges = [edge for step in steps for edge in _declared_edges(step, steps)]
    for a in steps:
        for b in steps:
            touched_a, touched_b = a.instruction.card.touches, b.instruction.card.touches
            if "split" in touched_a and "fitted" in touched_b and "split" not in touched_b:
                edges.append(_Edge(a.label, b.label, "what is fitted may see the training split only"))
            both_optimise = all("optimise" in s.instruction.doors() for s in (a, b))
            if (
                both_optimise
                and touched_a & MODULE_CHANGES
                and not touched_a & {"artifact", "export"}
                and "export" in touched_b
            ):
                edges.append(_Edge(a.label, b.label, "nothing may change the module after its export"))
    return edges


def _declared_edges(step: Step, steps: Sequence[Step]) -> list[_Edge]:
    after, before = step.instruction.order()
    edges = []
    for other in steps:
        if other.label == step.label:
            continue
        edges += [
            _Edge(other.label, step.label, reason) for rule, reason in after.items() if _fits(rule, other)
        ]
        edges += [
            _Edge(step.label, other.label, reason) for rule, reason in before.items() if _fits(rule, other)
        ]
    return edges


def _fits(rule: str, step: Step) -> bool:
    card = step.instruction.card
    kind, colon, value = rule.partition(":")
    if not colon:
        return rule == card.name
    return value in card.touches if kind == "touches" else value == card.stage


def _sorted(steps: Sequence[Step], edges: Sequence[_Edge]) -> list[Step] | None:
    """Topological order; where rules leave a choice, by first door and then as the user wrote it."""
    by_label = {step.label: step for step in steps}
    rank = {step.label: (_first_door(step), place) for place, step in enumerate(steps)}
    waiting = {step.label: {edge.first for edge in edges if edge.then == step.label} for step in steps}
    ready = [(rank[label], label) for label, firsts in waiting.items() if not firsts]
    heapq.heapify(ready)
    order = []
    while ready:
        _, label = heapq.heappop(ready)
        order.append(by_label[label])
        for other, firsts in waiting.items():
            if label in firsts:
                firsts.discard(label)
                if not firsts:
                    heapq.heappush(ready, (rank[other], other))
    return order if len(order) == len(steps) else None


def _first_door(step: Step) -> int:
    doors = step.instruction.doors()
    return DOORS.index(doors[0]) if doors else len(DOORS)


def _time(step: Step) -> str:
    return WHEN[_first_door(step)]


def _against_given_order(steps: Sequence[Step], edges: Sequence[_Edge]) -> list[BadInput]:
    place = {step.label: number for number, step in enumerate(steps)}
    where = {step.label: step.entry.where for step in steps}
    broken = [edge for edge in edges if place[edge.first] > place[edge.then]]
    named = {(edge.first, edge.then) for edge in broken}
    for before, step in pairwise(steps):
        if _first_door(before) > _first_door(step) and (step.label, before.label) not in named:
            reason = f"that acts {_time(step)}, {before.label} {_time(before)}"
            broken.append(_Edge(step.label, before.label, reason))
    return [
        BadInput(
            f"{edge.then} must come after {edge.first}: {edge.reason}; move it, or drop order: strict",
            where[edge.then],
        )
        for edge in broken
    ]


def _reasons(step: Step, edges: Sequence[_Edge], written: Mapping[str, int]) -> tuple[str, ...]:
    after: Mapping[str, str] = {edge.first: edge.reason for edge in edges if edge.then == step.label}
    if after:
        return tuple(
            f"{'waits for' if written[first] > written[step.label] else 'after'} {first}: {reason}"
            for first, reason in after.items()
        )
    before: Mapping[str, str] = {edge.then: edge.reason for edge in edges if edge.first == step.label}
    if before:
        return tuple(f"before {then}: {reason}" for then, reason in before.items())
    return ("no rule orders it: kept in the recipe's order",)


def _cycle(steps: Sequence[Step], edges: Sequence[_Edge]) -> list[_Edge]:
    """One circle of rules: follow edges among what cannot be sorted until a label comes again."""
    stuck = {step.label for step in steps}
    while True:
        free = {label for label in stuck if not any(e.then == label and e.first in stuck for e in edges)}
        if not free:
            break
        stuck -= free
    path: list[_Edge] = []
    label = min(stuck)
    seen: list[str] = []
    while label not in seen:
        seen.append(label)
        edge = next(e for e in edges if e.then == label and e.first in stuck)
        path.append(edge)
        label = edge.first
    return path[seen.index(label) :]
