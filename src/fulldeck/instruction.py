"""An instruction: one numbered technique, described immutably, with four doors.

A door that an instruction does not override stays shut: it returns what it was given. State of a run
never lives here; `attach` creates what holds it and hands it to the loop.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from fulldeck.declared import Declared
from fulldeck.errors import BadInput
from fulldeck.param import param

if TYPE_CHECKING:
    from torch import nn

    from fulldeck.candidate import Candidate, Tolerance
    from fulldeck.data import Data
    from fulldeck.diagnosis.findings import Findings
    from fulldeck.distributed.together import Together
    from fulldeck.evidence.outcome import Outcome
    from fulldeck.service import Service
    from fulldeck.training.batch import Tensors
    from fulldeck.training.loop import TrainingLoop

__all__ = [
    "DOORS",
    "GOALS",
    "STAGES",
    "Card",
    "Evidence",
    "Instruction",
    "Prediction",
    "Situation",
    "instruction",
    "param",
]

Stage = Literal["data", "training", "inference", "deployment", "extensions"]
STAGES: tuple[Stage, ...] = ("data", "training", "inference", "deployment", "extensions")
DOORS = ("prepare", "attach", "optimise", "configure")
GOALS = {
    "balanced": "accurate, and small and fast where that costs little",
    "accurate": "as right as possible; size and speed come second",
    "fast": "answers and training as fast as this machine can",
    "small": "the smallest model that is still good",
}
"""What a first recipe may aim at (`fulldeck init --goal`), in words."""

TOUCHES = frozenset(
    {
        "split",
        "fitted",
        "targets",
        "inputs",
        "sampler",
        "loss",
        "activations",
        "modules",
        "weights",
        "graph",
        "dtype",
        "optimizer",
        "gradients",
        "learning_rate",
        "batch_size",
        "sharding",
        "export",
        "artifact",
        "service",
        "package",
    }
)
"""What an instruction may say that it touches; the planner's generic rules speak of these words."""


@dataclass(frozen=True)
class Evidence:
    """What shows that an instruction works.

    `workload` is a built-in name; `metric` the figure that it improves; `expect` the effect claimed, as a
    ratio (`<= 0.6x`), a difference (`>= +0.02`) or alone (`>= 1.0`); `cost` what it may cost, by figure;
    `beside` names the instructions that both arms have; `peer` is a library that does the same and can be
    measured beside it (`fulldeck.evidence.peers`); `settings` are keys of the workload, where its defaults would not
    show it.

    A figure is `step_time`, `latency`, `peak_memory`, `artifact_bytes`, `steps_to_target`, a metric or loss
    of the workload, a change that the instruction itself reports, or what its `prove` measures.
    """

    workload: str
    metric: str
    expect: str
    cost: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    peer: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """What an instruction would do to a run, told from a diagnosis of it.

    `ratio` is the `figure` (as in Evidence: step_time, latency, ...) with it over that without; `reason` is
    one sentence with the figures that it follows from, `cost` what it takes, in words. `eases` are the
    limits that it moves, by the names of `Findings.bounds` (or `capacity`, `padding`); `parameters` those
    that it should have.
    """

    figure: str
    ratio: float
    reason: str
    cost: str
    eases: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Situation:
    """What is known about the work before it starts: enough to say that an instruction cannot act."""

    kind: str
    """What the examples are: image, table, text or tensor; `unknown` for a factory that is not imported."""
    task: str
    """classification, regression, or `unknown`."""
    device: str
    """cpu, or the accelerator's type as `torch.accelerator` names it."""
    dtypes: frozenset[str] | None = None
    """Types that the device multiplies fast, where a hardware profile says so; None: look at the machine."""


@dataclass(frozen=True)
class Card:
    """The declared facts of an instruction, as the catalogue shows them."""

    name: str
    number: int
    stage: Stage
    title: str
    touches: frozenset[str]
    after: Mapping[str, str]
    before: Mapping[str, str]
    conflicts: Mapping[str, str]
    extras: tuple[str, ...]
    kinds: frozenset[str]
    repeatable: bool
    recipe_key: str | None
    goals: frozenset[str]
    evidence: Evidence


class Instruction(Declared):
    """Base of all instructions: parameters are its fields, the doors its methods."""

    card: ClassVar[Card]

    @classmethod
    def spoken_name(cls) -> str:
        return cls.card.name if hasattr(cls, "card") else cls.__name__

    def __str__(self) -> str:
        return f"{self.card.name}({', '.join(f'{k}={v!r}' for k, v in self.parameters().items())})"

    def parameters(self) -> dict[str, Any]:
        """The parameters that differ from their defaults, as plain YAML values."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def entry(self) -> str | dict[str, Any]:
        """This instruction as one entry of a recipe's list."""
        parameters = self.parameters()
        return {self.card.name: parameters} if parameters else self.card.name

    # What the planner asks -------------------------------------------------------------------------

    def order(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """(after, before): name or trait (`touches:weights`, `stage:data`) to the reason.

        Override it where the order depends on the parameters.
        """
        return self.card.after, self.card.before

    def clash(self, other: Instruction) -> str | None:
        """The reason why this one and `other` cannot be in one plan, or None. May look at parameters."""
        return self.card.conflicts.get(other.card.name)

    def cannot(self, situation: Situation) -> str | None:
        """The reason why this one cannot act in `situation`, or None."""
        kinds = self.card.kinds
        if kinds and situation.kind not in kinds | {"unknown"}:
            # "tokens" is the one kind with a plural for a name.
            works = " or ".join(kind.removesuffix("s") for kind in sorted(kinds))
            return f"works on {works} data, and this is {situation.kind.removesuffix('s')} data"
        return None

    @classmethod
    def suggest(cls, data: Data) -> tuple[Self, str]:
        """This instruction as a first recipe on `data` has it, and what in the data made it so, in words.

        Override it where the defaults do not suit all data; the words are empty for the defaults.
        """
        return cls(), ""

    def tolerance(self) -> Tolerance:
        """What `optimise` may change at most; the pipeline checks it after the door has been used."""
        from fulldeck.candidate import Tolerance

        return Tolerance()

    def prove(self, outcome: Outcome) -> float:
        """The figure that this one's evidence names, where no run tells it; also of runs without this one."""
        raise NotImplementedError(f"{self.card.name} names a figure that it does not measure")

    @classmethod
    def predict(cls, findings: Findings) -> Prediction | None:
        """What this instruction would do, as far as the figures of a diagnosis say so; None: they do not."""
        return None

    def together(self) -> Together | None:
        """How the processes that train together find each other, if this one spreads the training over several."""
        return None

    def restore(self, model: nn.Module, inputs: Tensors) -> nn.Module:
        """`model` in the form in which this one leaves it to be trained, for the trained weights to be loaded.

        `inputs` are a few rows. Override it where `attach` makes another module of the model, and the weights keep
        its names.
        """
        return model

    # The doors -------------------------------------------------------------------------------------

    def prepare(self, data: Data) -> Data:
        """Change the data before a model exists."""
        return data

    def attach(self, loop: TrainingLoop) -> None:
        """Register handlers, wrappers and state with the training loop."""

    def optimise(self, candidate: Candidate) -> Candidate:
        """Turn the trained model into a better one to deploy."""
        return candidate

    def configure(self, service: Service) -> Service:
        """Change what a server is started from."""
        return service

    @classmethod
    def doors(cls) -> tuple[str, ...]:
        """The doors that this instruction opens."""
        return tuple(door for door in DOORS if getattr(cls, door) is not getattr(Instruction, door))


Class = TypeVar("Class", bound=type[Instruction])


def labels(names: Iterable[str]) -> list[str]:
    """A label for each: the name, and for a repeated one `name#2`, `name#3`."""
    count: Counter[str] = Counter()
    result = []
    for name in names:
        count[name] += 1
        result.append(name if count[name] == 1 else f"{name}#{count[name]}")
    return result


def check_attachable(instructions: Iterable[Instruction]) -> list[Instruction]:
    """The instructions as a list.

    Raises BadInput for what is no instruction, has no training door, or stands twice and may not.
    """
    checked = list(instructions)
    for one in checked:
        if not isinstance(one, Instruction):
            raise BadInput(f"instructions must be objects such as LrScheduler(), got {one!r}")
        if "attach" not in one.doors():
            raise BadInput(f"{one.card.name} does nothing in training; use its function, or a recipe")
    for name, count in Counter(one.card.name for one in checked if not one.card.repeatable).items():
        if count > 1:
            raise BadInput(f"{name} may stand only once")
    return checked


def snake_case(name: str) -> str:
    """`OnnxExport` to `onnx_export`, `LRScheduler` to `lr_scheduler`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def instruction(
    number: int,
    *,
    stage: Stage,
    evidence: Evidence,
    touches: Collection[str] = (),
    after: Mapping[str, str] = MappingProxyType({}),
    before: Mapping[str, str] = MappingProxyType({}),
    conflicts: Mapping[str, str] = MappingProxyType({}),
    extras: tuple[str, ...] = (),
    kinds: Collection[str] = (),
    repeatable: bool = False,
    recipe_key: str | None = None,
    goals: Collection[str] = (),
) -> Callable[[Class], Class]:
    """Give an instruction class its card.

    `after` and `before` map a name or a trait (`touches:weights`, `stage:deployment`) to the reason for
    that order; `conflicts` maps a name to the reason and the remedy. `kinds` limits it to kinds of data,
    `extras` are the pip extras that it needs, `recipe_key` is a top-level key of a recipe that stands for
    it, `goals` are the GOALS for which a first recipe has it: with all of them it belongs into every one,
    with some it is optional there, with none only who asks for it gets it. The title is the first line of
    the module's docstring.

    Raises ValueError for a stage, a word in `touches` or a goal that does not exist.
    """
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {stage!r}")
    if unknown := set(touches) - TOUCHES:
        raise ValueError(
            f"unknown in touches: {', '.join(sorted(unknown))}; there is {', '.join(sorted(TOUCHES))}"
        )
    if wrong := set(goals) - set(GOALS):
        raise ValueError(f"unknown in goals: {', '.join(sorted(wrong))}; there is {', '.join(GOALS)}")

    def give(cls: Class) -> Class:
        import sys

        text = sys.modules[cls.__module__].__doc__ or cls.__doc__ or ""
        cls.card = Card(
            name=snake_case(cls.__name__),
            number=number,
            stage=stage,
            title=text.strip().splitlines()[0] if text.strip() else "",
            touches=frozenset(touches),
            after=dict(after),
            before=dict(before),
            conflicts=dict(conflicts),
            extras=extras,
            kinds=frozenset(kinds),
            repeatable=repeatable,
            recipe_key=recipe_key,
            goals=frozenset(goals),
            evidence=evidence,
        )
        return cls

    return give
