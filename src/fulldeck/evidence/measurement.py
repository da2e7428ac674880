"""Measuring two recipes side by side: in rounds (times), over seeds (what training comes to), or afresh
(memory). Arms take turns in random order, so whatever the machine does in between meets them all alike.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fulldeck.errors import BadInput
from fulldeck.evidence.arms import Arm, OutOfTime
from fulldeck.evidence.statistics import LOOKS, Interval, Verdict, left, median_interval, spent
from fulldeck.recipe.recipe import Recipe

BASELINE, CONTROL, TREATMENT = "baseline", "control", "treatment"
ROUND_SECONDS = 0.2
"""An arm's share of a round is at least about so long: in shorter ones a hiccup of the machine counts too much."""
SLOW_ROUND_SECONDS = 2.0
"""And no longer than about so long for the slowest arm, unless a single step takes more."""
MOST_UNITS = 200
MEMORY_REPEATS, MEMORY_STEPS = 3, 10
MEMORY_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Without it the C allocator keeps freed blocks, and hides what was saved."""

BUDGET, INTERRUPTED = "the budget ended", "interrupted"

Unit = Literal["steps", "latency"]


@dataclass
class Setting:
    """Where and how long to measure, and who is told. `tell` takes words and figures for a progress line."""

    folder: Path
    deadline: float | None = None
    looks: tuple[int, ...] = LOOKS
    seeds: int = 5
    tell: Callable[[str], None] = lambda text: None
    peers: tuple[str, ...] = ()


@dataclass
class Rounds:
    """Paired measurements. `milliseconds` of one step or call, `cpu_ms` likewise, by arm."""

    milliseconds: dict[str, list[float]]
    cpu_ms: dict[str, list[float]]
    loss: dict[str, list[float]]
    units: int = 1
    alpha: float = 0.05
    ended: str | None = None
    """Why it ended before it was decided: BUDGET or INTERRUPTED."""

    @property
    def count(self) -> int:
        """Whole rounds."""
        return min(len(values) for values in self.milliseconds.values())

    def may_tell(self, looks: Sequence[int]) -> bool:
        """Whether a verdict may be given: at a planned look, or where the time was up after the first of them."""
        return self.count in looks or (self.ended == BUDGET and self.count >= looks[0])

    def ratio(self, arm: str, alpha: float | None = None) -> Interval:
        """The median ratio of an arm to the baseline."""
        count = self.count
        pairs = zip(self.milliseconds[arm][:count], self.milliseconds[BASELINE][:count], strict=True)
        return median_interval([one / other for one, other in pairs], self.alpha if alpha is None else alpha)


def in_rounds(
    recipes: Mapping[str, Recipe],
    unit: Unit,
    setting: Setting,
    decide: Callable[[Rounds], Verdict],
) -> Rounds:
    """Time one step of training, or one call of the finished model, of each recipe in turns.

    `recipes` has a baseline and others; a second baseline runs beside them as the control, and `setting.peers` train
    the baseline in their own way. It ends at the
    first planned look at which `decide` says something other than inconclusive, or when time is up.
    """
    arms = {BASELINE: recipes[BASELINE], CONTROL: recipes[BASELINE], **recipes}
    arms |= dict.fromkeys(setting.peers, recipes[BASELINE])
    rounds = Rounds({name: [] for name in arms}, {name: [] for name in arms}, {name: [] for name in arms})
    order = random.Random(0)
    mode: Literal["steps", "outcome"] = "steps" if unit == "steps" else "outcome"
    with ExitStack() as stack:
        started = {
            name: stack.enter_context(
                Arm(
                    name,
                    recipe,
                    mode,
                    setting.folder / unit,
                    setting.deadline,
                    peer=name if name in setting.peers else None,
                )
            )
            for name, recipe in arms.items()
        }
        try:
            if unit == "latency":
                for name, arm in started.items():
                    setting.tell(f"preparing {name}")
                    arm.ask(seed=0, prove=None)
            setting.tell("warming up")
            once = [arm.ask(**{unit: 1})["wall_s"] for arm in started.values()]
            enough, most = math.ceil(ROUND_SECONDS / min(once)), int(SLOW_ROUND_SECONDS / max(once))
            rounds.units = max(min(enough, most, MOST_UNITS), 1)
            while rounds.count < setting.looks[-1]:
                for name in order.sample(sorted(arms), len(arms)):
                    answer = started[name].ask(**{unit: rounds.units})
                    share = 1 if unit == "latency" else rounds.units
                    rounds.milliseconds[name].append(1000 * answer["wall_s"] / share)
                    if unit == "steps":
                        rounds.cpu_ms[name].append(1000 * answer["cpu_s"] / share)
                        rounds.loss[name].append(answer["loss"])
                _tell_rounds(rounds, setting)
                if rounds.count in setting.looks:
                    rounds.alpha = spent(setting.looks.index(rounds.count), setting.looks)
                    if decide(rounds) != "inconclusive":
                        break
        except (OutOfTime, KeyboardInterrupt) as end:
            rounds.ended = _why(end)
            if rounds.ended == BUDGET and rounds.may_tell(setting.looks):
                rounds.alpha = left(rounds.count, setting.looks)
    return rounds


def _why(end: BaseException) -> str:
    return BUDGET if isinstance(end, OutOfTime) else INTERRUPTED


def _tell_rounds(rounds: Rounds, setting: Setting) -> None:
    words = f"round {rounds.count} of at most {setting.looks[-1]}"
    if rounds.count >= 6:
        effect = rounds.ratio(TREATMENT)
        words += f"  {effect.estimate:.3f}x ({effect.low:.3f} to {effect.high:.3f})"
    setting.tell(words)


@dataclass
class Seeds:
    """Outcomes of shared seeds: figures, curves and steps by arm, in the order of `seeds`."""

    seeds: list[int] = field(default_factory=list)
    figures: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    steps: dict[str, list[int]] = field(default_factory=dict)
    metric: str = ""
    """The task's own metric, the first that the workload names."""
    ended: str | None = None

    def values(self, arm: str, figure: str) -> list[float] | None:
        """One figure of an arm, a value a seed; None where the arm does not have it."""
        found = [one.get(figure) for one in self.figures.get(arm, [])[: len(self.seeds)]]
        return None if not found or None in found else [value for value in found if value is not None]

    def steps_to_target(self, arm: str, other: str) -> list[float]:
        """Optimizer steps until an arm's validation loss is as low as both arms' best ones at least are."""
        counts = []
        for place in range(len(self.seeds)):
            curve = self.curves[arm][place]
            target = max(min(curve), min(self.curves[other][place]))
            epoch = next(number for number, loss in enumerate(curve, 1) if loss <= target)
            counts.append(self.steps[arm][place] * epoch / len(curve))
        return counts


def over_seeds(
    recipes: Mapping[str, Recipe], setting: Setting, prove: Mapping[str, Any] | None = None
) -> Seeds:
    """Carry every recipe out with the same seeds; `prove` is the entry whose own figure is wanted too."""
    found = Seeds()
    for name in recipes:
        found.figures[name], found.curves[name], found.steps[name] = [], [], []
    order = random.Random(0)
    with ExitStack() as stack:
        arms = {
            name: stack.enter_context(
                Arm(name, recipe, "outcome", setting.folder / "seeds", setting.deadline)
            )
            for name, recipe in recipes.items()
        }
        try:
            for seed in range(setting.seeds):
                for name in order.sample(sorted(arms), len(arms)):
                    setting.tell(f"seed {seed + 1} of {setting.seeds}: {name}")
                    answer = arms[name].ask(seed=seed, prove=prove)
                    found.figures[name].append(answer["figures"])
                    found.curves[name].append(answer["curve"])
                    found.steps[name].append(answer["steps"])
                    found.metric = answer["metric"]
                found.seeds.append(seed)
        except (OutOfTime, KeyboardInterrupt) as end:
            found.ended = _why(end)
    return found


@dataclass
class Peaks:
    """Peak bytes by arm, a fresh process for each."""

    peak_bytes: dict[str, list[float]]
    ended: str | None = None


def afresh(recipes: Mapping[str, Recipe], setting: Setting) -> Peaks:
    """Peak memory of a few training steps above the level after imports."""
    peaks = Peaks({name: [] for name in recipes})
    try:
        for repeat in range(MEMORY_REPEATS):
            for name, recipe in recipes.items():
                setting.tell(f"memory {repeat + 1} of {MEMORY_REPEATS}: {name}")
                folder = setting.folder / "memory"
                with Arm(name, recipe, "steps", folder, setting.deadline, MEMORY_ENVIRONMENT) as arm:
                    arm.ask(steps=MEMORY_STEPS)
                    peaks.peak_bytes[name].append(float(arm.ask(peak=True)["peak_bytes"]))
    except (OutOfTime, KeyboardInterrupt) as end:
        peaks.ended = _why(end)
    return peaks


def deadline(seconds: float | None) -> float | None:
    """The moment at which a budget of so many seconds from now is spent."""
    return None if seconds is None else time.monotonic() + seconds


def budget_seconds(text: str) -> float:
    """`90`, `90s`, `5m` or `2h` in seconds. Raises BadInput for anything else."""
    units: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < math.inf:
        raise BadInput(f'a budget is a time such as 90s, 5m or 2h, got "{text}"')
    return seconds


def as_rows(samples: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Samples as they are kept: six digits are more than was measured."""
    return {name: [float(f"{value:.6g}") for value in values] for name, values in samples.items()}
