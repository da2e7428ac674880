"""`verify`: what one instruction does, measured against the same recipe without it."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fulldeck.catalogue import catalogue
from fulldeck.errors import BadInput
from fulldeck.evidence.claim import Claim
from fulldeck.evidence.measurement import (
    BASELINE,
    CONTROL,
    INTERRUPTED,
    TREATMENT,
    Rounds,
    Seeds,
    Setting,
    Unit,
    afresh,
    as_rows,
    deadline,
    in_rounds,
    over_seeds,
)
from fulldeck.evidence.peers import peer
from fulldeck.evidence.statistics import (
    LOOKS,
    MARGIN,
    Interval,
    Verdict,
    judge,
    mean_interval,
    noisy,
    rounds_to_decide,
)
from fulldeck.instruction import Instruction
from fulldeck.machine import describe_machine
from fulldeck.pipeline import situation
from fulldeck.planner import make_plan
from fulldeck.recipe import Entry, Recipe, make_recipe, read_recipe

SCHEMA = 1
QUICK_SEEDS = 3
MARGIN_OF_DIFFERENCE = 0.005
"""Half a point of accuracy makes no difference."""
DIVERGED = 2.0
"""A loss so many times that of the baseline: the two arms no longer do the same work."""
IN_ROUNDS: Mapping[str, Unit] = {"step_time": "steps", "latency": "latency"}
FROM_CURVES = "steps_to_target"
AFRESH = "peak_memory"
PROOF = "proof"


class NothingMeasured(BadInput):
    """The time was over before a figure could be measured once."""

    def __init__(self, metric: str, ended: str | None) -> None:
        super().__init__(f"the budget was spent before {metric} could be measured once; give it more")
        self.ended = ended


@dataclass(frozen=True)
class Measured:
    """One figure of both arms: its effect with interval, the verdict, and why there is none."""

    metric: str
    claim: Claim
    effect: Interval
    baseline: float | None
    treatment: float
    verdict: Verdict
    rounds: int
    samples: Mapping[str, list[float]]
    control: Interval | None = None
    reason: str | None = None
    ended: str | None = None
    peers: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As results have it."""
        scale = "difference" if self.claim.scale == "difference" else "ratio"
        value: dict[str, Any] = {
            "metric": self.metric,
            "verdict": self.verdict,
            "claim": self.claim.text,
            "claim_holds": self._holds(),
            scale: self.effect.estimate,
            "interval": [self.effect.low, self.effect.high],
            "baseline": self.baseline,
            "treatment": self.treatment,
            "rounds": self.rounds,
        }
        if scale == "difference" and self.baseline:
            value["ratio"] = self.treatment / self.baseline
        if self.control is not None:
            value["control"] = {
                "ratio": self.control.estimate,
                "interval": [self.control.low, self.control.high],
            }
        if self.reason is not None:
            value["reason"] = self.reason
        return value

    def _holds(self) -> bool | None:
        if self.claim.scale != "alone":
            return self.claim.holds(self.effect)
        return self.claim.holds(_estimate(self.samples[TREATMENT]))


def verify(
    name: str,
    *,
    recipe: str | Path | Recipe | None = None,
    quick: bool = False,
    budget: float | None = None,
    against: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure the instruction `name` on `recipe`, or on the workload that its evidence names.

    The baseline is the recipe without it; if the recipe does not have it, the treatment is the recipe with
    it. `quick` stops at the first look and takes three seeds, `budget` is in seconds, `against` names a peer
    that is timed beside it. The result is plain JSON. Raises BadInput, RunFailed (an arm failed: its last
    lines and log), KeyboardInterrupt.
    """
    instruction, baseline, treatment = arms_of(name, recipe)
    evidence = instruction.card.evidence
    if against is not None:
        peer(against)
        if IN_ROUNDS.get(evidence.metric) != "steps":
            raise BadInput(
                f"{name} is shown by {evidence.metric}, and peers are only timed in training (step_time)"
            )
    claims = {evidence.metric: Claim.parse(evidence.expect)}
    claims |= {figure: Claim.parse(text) for figure, text in evidence.cost.items()}
    recipes = {BASELINE: baseline, TREATMENT: treatment}
    started = time.monotonic()
    setting = Setting(
        Path(tempfile.mkdtemp(prefix="fulldeck-verify-")),
        deadline(budget),
        LOOKS[:1] if quick else LOOKS,
        QUICK_SEEDS if quick else Setting.seeds,
        tell,
        () if against is None else (against,),
    )
    measured = _measure_all(claims, recipes, instruction, setting)
    first, *costs = measured
    interrupted = any(one.ended == INTERRUPTED for one in measured)
    return {
        "schema": SCHEMA,
        "name": instruction.card.name,
        "number": instruction.card.number,
        "parameters": instruction.parameters(),
        "recipe": {BASELINE: baseline.resolved(), TREATMENT: treatment.resolved()},
        "workload": baseline.workload.name,
        **first.to_json(),
        "costs": [cost.to_json() for cost in costs],
        "not_measured": list(claims)[len(measured) :],
        "peers": first.peers,
        "samples": {one.metric: as_rows(one.samples) for one in measured},
        "status": "interrupted" if interrupted else "finished",
        "quick": quick,
        "seconds": round(time.monotonic() - started, 1),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": describe_machine(),
    }


def arms_of(name: str, recipe: str | Path | Recipe | None) -> tuple[Instruction, Recipe, Recipe]:
    """The instruction, and the recipe without and with it, both planned. Raises BadInput if one has no plan."""
    cls = catalogue().find(name).load()
    if recipe is None:
        beside = [catalogue().find(one).load()() for one in cls.card.evidence.beside]
        base = make_recipe(cls.card.evidence.workload, beside)
    else:
        base = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    own = [entry for entry in base.entries if entry.instruction.card.name == cls.card.name]
    entry = own[0] if own else Entry(cls())
    others = tuple(one for one in base.entries if one not in own)
    baseline = replace(base, entries=others)
    treatment = base if own else replace(base, entries=(*others, entry))
    for arm, made in ((BASELINE, baseline), (TREATMENT, treatment)):
        try:
            make_plan(made, situation(made))
        except BadInput as error:
            raise BadInput(f"the {arm} of {name} has no plan: {error}") from None
    return entry.instruction, baseline, treatment


def _measure_all(
    claims: Mapping[str, Claim], recipes: Mapping[str, Recipe], instruction: Instruction, setting: Setting
) -> list[Measured]:
    seeds: Seeds | None = None
    found: list[Measured] = []
    for metric, claim in claims.items():
        try:
            if metric in IN_ROUNDS:
                found.append(_timed(metric, claim, recipes, setting))
            elif metric == AFRESH:
                found.append(_memory(claim, recipes, setting))
            else:
                if seeds is None:
                    own = type(instruction).prove is not Instruction.prove
                    entry = {"name": instruction.card.name, "parameters": instruction.parameters()}
                    seeds = over_seeds(recipes, setting, entry if own else None)
                found.append(_over_seeds(metric, claim, seeds))
        except NothingMeasured as nothing:
            if nothing.ended == INTERRUPTED and not found:
                raise KeyboardInterrupt from None
            if not found:
                raise
            break
        if found[-1].ended is not None:
            break
    return found


def _timed(metric: str, claim: Claim, recipes: Mapping[str, Recipe], setting: Setting) -> Measured:
    def decide(rounds: Rounds) -> Verdict:
        if noisy(rounds.ratio(CONTROL)):
            return "inconclusive"
        return _judge(rounds.ratio(TREATMENT), claim)

    rounds = in_rounds(recipes, IN_ROUNDS[metric], setting, decide)
    if rounds.count == 0:
        raise NothingMeasured(metric, rounds.ended)
    effect, control = rounds.ratio(TREATMENT), rounds.ratio(CONTROL)
    verdict, reason = decide(rounds), None
    if rounds.ended and rounds.count not in setting.looks:
        verdict, reason = "inconclusive", f"{rounds.ended} after {rounds.count} rounds, before a look was due"
    if verdict == "inconclusive":
        needed = max(
            rounds_to_decide(effect, rounds.count),
            rounds_to_decide(control, rounds.count, margin=MARGIN) if noisy(control) else 0,
        )
        reason = reason or noisy(control) or "the interval holds both a gain and a loss"
        reason += f"; about {needed} rounds would decide"
    if (diverged := _diverged(rounds)) is not None:
        verdict, reason = "inconclusive", diverged
    return Measured(
        metric,
        claim,
        effect,
        statistics.median(rounds.milliseconds[BASELINE]),
        statistics.median(rounds.milliseconds[TREATMENT]),
        verdict,
        rounds.count,
        {**rounds.milliseconds, **{f"{name} cpu": cpu for name, cpu in rounds.cpu_ms.items() if cpu}},
        control,
        reason,
        rounds.ended,
        {name: _beside(name, metric, rounds) for name in setting.peers},
    )


def _beside(name: str, metric: str, rounds: Rounds) -> dict[str, Any]:
    effect = rounds.ratio(name)
    return {
        "peer": name,
        "metric": metric,
        "ratio": effect.estimate,
        "interval": [effect.low, effect.high],
        "baseline": statistics.median(rounds.milliseconds[BASELINE]),
        "treatment": statistics.median(rounds.milliseconds[name]),
        "rounds": rounds.count,
        "claim_holds": None,
    }


def _diverged(rounds: Rounds) -> str | None:
    if not all(rounds.loss.values()):
        return None
    here, there = (statistics.fmean(rounds.loss[name]) for name in (TREATMENT, BASELINE))
    if here <= DIVERGED * there:
        return None
    return (
        f"the arms diverge: the mean loss is {here:.4g} with it and {there:.4g} without, so times say nothing"
    )


def _memory(claim: Claim, recipes: Mapping[str, Recipe], setting: Setting) -> Measured:
    found = afresh(recipes, setting)
    peaks = found.peak_bytes
    count = min(map(len, peaks.values()))
    if count == 0:
        raise NothingMeasured(AFRESH, found.ended)
    ratios = [
        one / other for one, other in zip(peaks[TREATMENT][:count], peaks[BASELINE][:count], strict=True)
    ]
    effect = Interval(statistics.median(ratios), min(ratios), max(ratios))
    return Measured(
        AFRESH,
        claim,
        effect,
        statistics.median(peaks[BASELINE]),
        statistics.median(peaks[TREATMENT]),
        _judge(effect, claim),
        count,
        peaks,
        ended=found.ended,
    )


def _over_seeds(metric: str, claim: Claim, seeds: Seeds) -> Measured:
    if not seeds.seeds:
        raise NothingMeasured(metric, seeds.ended)
    if metric == FROM_CURVES:
        treatment: list[float] | None = seeds.steps_to_target(TREATMENT, BASELINE)
        baseline: list[float] | None = seeds.steps_to_target(BASELINE, TREATMENT)
    else:
        treatment, baseline = seeds.values(TREATMENT, metric), seeds.values(BASELINE, metric)
        if treatment is None:
            treatment, baseline = seeds.values(TREATMENT, PROOF), seeds.values(BASELINE, PROOF)
    if treatment is None:
        known = ", ".join(sorted(seeds.figures[TREATMENT][0]))
        raise BadInput(f'the metric "{metric}" is not recorded; there are {known}')
    count = len(treatment)
    samples = {TREATMENT: treatment} | ({} if baseline is None else {BASELINE: baseline})
    mean = statistics.fmean(treatment)
    if baseline is None:
        # A figure that only the treatment has: there is nothing to compare it with but the claim.
        holds = claim.holds(_estimate(treatment))
        verdict: Verdict = "helps" if holds else "inconclusive" if holds is None else "hurts"
        return Measured(metric, claim, _point(mean), None, mean, verdict, count, samples, ended=seeds.ended)
    if claim.scale == "ratio":
        pairs = [one / other for one, other in zip(treatment, baseline, strict=True)]
    else:
        pairs = [one - other for one, other in zip(treatment, baseline, strict=True)]
    effect = _estimate(pairs)
    reason = None
    verdict = _judge(effect, claim)
    if verdict == "inconclusive":
        neutral = 1.0 if claim.scale == "ratio" else 0.0
        margin = MARGIN if claim.scale == "ratio" else MARGIN_OF_DIFFERENCE
        needed = rounds_to_decide(effect, count, neutral=neutral, margin=margin)
        reason = f"{count} seeds do not tell{f', {seeds.ended}' if seeds.ended else ''}; about {needed} would"
    return Measured(
        metric,
        claim,
        effect,
        statistics.fmean(baseline),
        mean,
        verdict,
        count,
        samples,
        reason=reason,
        ended=seeds.ended,
    )


def _judge(effect: Interval, claim: Claim) -> Verdict:
    if claim.scale == "ratio":
        return judge(effect, neutral=1.0, margin=MARGIN, better=claim.better)
    return judge(effect, neutral=0.0, margin=MARGIN_OF_DIFFERENCE, better=claim.better)


def _estimate(values: list[float]) -> Interval:
    """The mean; equal in every repetition, nothing is uncertain about it."""
    return mean_interval(values) if len(set(values)) > 1 else _point(values[0])


def _point(value: float) -> Interval:
    return Interval(value, value, value)
