"""A recipe: what to work on, with which instructions and settings."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ruamel.yaml import YAML

from fulldeck.declared import Declared
from fulldeck.errors import BadInput
from fulldeck.hardware.profile import Profile
from fulldeck.instruction import Instruction
from fulldeck.param import param
from fulldeck.trackers.tracker import Tracker
from fulldeck.workload import Workload
from fulldeck.workloads import make_workload

ENTRY_KEYS = ("optional", "tolerate")
PATHS = ("path", "model", "data")
"""Keys of a workload that may name a file or folder."""


class Train(Declared):
    """`train:` of a recipe; what is left out is taken from the workload."""

    epochs: int | None = param(None, ge=1, doc="Passes over the training data.")
    batch_size: int | None = param(None, ge=1, doc="Examples that one optimizer step is computed from.")
    micro_batch: int | None = param(
        None, ge=1, doc="Most examples computed at once; the gradient stays the same."
    )
    learning_rate: float | None = param(None, gt=0, doc="Of the optimizer.")
    weight_decay: float | None = param(None, ge=0, doc="Of the optimizer, on matrices only.")
    seed: int = param(0, ge=0, doc="Of everything random.")
    device: str = param("auto", doc="auto, cpu or an accelerator such as cuda.")
    threads: int | None = param(None, ge=1, doc="CPU threads; left out: as many as there are cores.")
    max_steps: int | None = param(None, ge=1, doc="Stop after this many optimizer steps.")
    checkpoint_every: int | None = param(
        None, ge=1, doc="Also save after this many steps, not only each epoch."
    )


class Goal(Declared):
    """`goal:` of a recipe: what a search over recipes aims at."""

    minimize: str | None = param(None, doc="A figure of the result, such as latency_p99_ms.")
    maximize: str | None = param(None, doc="A figure of the result, such as accuracy.")
    subject_to: tuple[str, ...] = param((), doc='Conditions such as "accuracy >= baseline - 0.01".')


@dataclass(frozen=True)
class Entry:
    """One item of `instructions:`.

    With `optional`, the run goes on without it where it cannot act; with `tolerate`, where it breaks its
    tolerance. `where` is its file and line.
    """

    instruction: Instruction
    optional: bool = False
    tolerate: bool = False
    where: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. `order` strict: the user's order of instructions must be the plan's.

    `profile` is the hardware profile that it names; its parameters are in the instructions already. `search`
    narrows what `fulldeck tune` may change (`fulldeck.tuning.space`).
    """

    name: str
    workload: Workload
    entries: tuple[Entry, ...] = ()
    train: Train = field(default_factory=Train)
    hardware: str = "auto"
    goal: Goal | None = None
    order: Literal["free", "strict"] = "free"
    trackers: tuple[Tracker, ...] = ()
    profile: Profile | None = None
    search: Mapping[str, Any] | None = None

    def resolved(self) -> dict[str, Any]:
        """This recipe as plain YAML values, with every default of `train` filled in."""
        defaults = self.workload.defaults
        train = {
            "epochs": defaults.epochs,
            "batch_size": defaults.batch_size,
            "learning_rate": defaults.learning_rate,
            "weight_decay": defaults.weight_decay,
        } | self.train.model_dump(mode="json", exclude_none=True)
        settings = self.workload.model_dump(mode="json", exclude_none=True)
        value: dict[str, Any] = {
            "workload": {"kind": self.workload.kind, **settings} if settings else self.workload.kind,
            "hardware": self.hardware,
            "train": train,
            "instructions": [_plain_entry(entry) for entry in self.entries],
        }
        if self.goal is not None:
            value["goal"] = self.goal.model_dump(mode="json", exclude_none=True)
        if self.search is not None:
            value["search"] = dict(self.search)
        if self.order != "free":
            value["order"] = self.order
        if self.trackers:
            value["trackers"] = [_plain_tracker(tracker) for tracker in self.trackers]
        return value

    def only(self, *instructions: Instruction) -> Recipe:
        """This recipe with these instructions in place of its own."""
        return replace(self, entries=tuple(Entry(one) for one in instructions))

    def to_yaml(self) -> str:
        """The resolved recipe as a file that can be run again."""
        stream = io.StringIO()
        yaml = YAML()
        yaml.default_flow_style = None
        yaml.dump(self.resolved(), stream)
        return stream.getvalue()


def make_recipe(
    workload: str | Mapping[str, Any] | Workload,
    instructions: Sequence[Instruction] = (),
    *,
    train: Mapping[str, Any] | None = None,
    order: Literal["free", "strict"] = "free",
) -> Recipe:
    """A recipe from Python objects. Raises BadInput as `read_recipe` does."""
    for one in instructions:
        if not isinstance(one, Instruction):
            raise BadInput(f"instructions must be objects such as OnnxExport(), got {one!r}")
    chosen = workload if isinstance(workload, Workload) else make_workload(workload)
    entries = tuple(Entry(instruction) for instruction in instructions)
    return Recipe(chosen.name, chosen, entries, Train(**(train or {})), order=order)


def _plain_entry(entry: Entry) -> str | dict[str, Any]:
    flags = {key: True for key in ENTRY_KEYS if getattr(entry, key)}
    parameters = entry.instruction.parameters() | flags
    name = entry.instruction.card.name
    return {name: parameters} if parameters else name


def _plain_tracker(tracker: Tracker) -> str | dict[str, Any]:
    parameters = tracker.model_dump(mode="json", exclude_defaults=True)
    return {tracker.kind: parameters} if parameters else tracker.kind
