"""One figure of two arms, measured and judged."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fulldeck.errors import BadInput
from fulldeck.evidence.claim import Claim
from fulldeck.evidence.measurement import (
    BASELINE,
    CONTROL,
    MEMORY_REPEATS,
    TREATMENT,
    Rounds,
    Seeds,
    Setting,
    Unit,
    afresh,
    in_rounds,
)
from fulldeck.evidence.statistics import (
    MARGIN,
    Interval,
    Verdict,
    judge,
    mean_interval,
    noisy,
    rounds_to_decide,
)
from fulldeck.recipe.recipe import Recipe

MARGIN_OF_DIFFERENCE = 0.005
"""Half a point of accuracy makes no difference."""
DIVERGED = 2.0
"""A loss so many times that of the baseline: the two arms no longer do the same work."""
IN_ROUNDS: Mapping[str, Unit] = {"step_time": "steps", "latency": "latency"}
"""Figures that are times: measured in rounds. All but these and AFRESH are told by outcomes over seeds."""
AFRESH = "peak_memory"
FROM_CURVES = "steps_to_target"
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
    repeated: Literal["rounds", "seeds", "processes"] = "rounds"
    peers: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As results have it."""
        scale = "ratio" if self.claim.scale == "ratio" else "difference"
        value: dict[str, Any] = {
            "metric": self.metric,
            "verdict": self.verdict,
            "claim": self.claim.text,
            "claim_holds": self._holds(),
            scale: None if self.baseline is None else self.effect.estimate,
            "interval": [self.effect.low, self.effect.high],
            "baseline": self.baseline,
            "treatment": self.treatment,
            "rounds": self.rounds,
            "repeated": self.repeated,
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
        elif self.verdict == "no difference":
            margin = MARGIN if scale == "ratio" else MARGIN_OF_DIFFERENCE
            value["reason"] = f"all of the interval lies within {margin:g} of none, which counts as none"
        return value

    def _holds(self) -> bool | None:
        if self.claim.scale != "alone":
            return self.claim.holds(self.effect)
        return self.claim.holds(_estimate(self.samples[TREATMENT]))


def timed(metric: str, claim: Claim, recipes: Mapping[str, Recipe], setting: Setting) -> Measured:
    """A time, in rounds, until a planned look decides."""

    def decide(rounds: Rounds) -> Verdict:
        if noisy(rounds.ratio(CONTROL)):
            return "inconclusive"
        return _judge(rounds.ratio(TREATMENT), claim)

    rounds = in_rounds(recipes, IN_ROUNDS[metric], setting, decide)
    if rounds.count == 0:
        raise NothingMeasured(metric, rounds.ended)
    effect, control = rounds.ratio(TREATMENT), rounds.ratio(CONTROL)
    verdict, reason = decide(rounds), None
    if not rounds.may_tell(setting.looks):
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
        peers={name: _beside(name, metric, rounds) for name in setting.peers},
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


def memory(claim: Claim, recipes: Mapping[str, Recipe], setting: Setting) -> Measured:
    """Peak memory, a fresh process for each value; the interval is the range."""
    found = afresh(recipes, setting)
    peaks = found.peak_bytes
    count = min(map(len, peaks.values()))
    if count == 0:
        raise NothingMeasured(AFRESH, found.ended)
    ratios = [
        one / other for one, other in zip(peaks[TREATMENT][:count], peaks[BASELINE][:count], strict=True)
    ]
    effect = Interval(statistics.median(ratios), min(ratios), max(ratios))
    reason = None
    if count == 1:
        effect = mean_interval(ratios)
        reason = f"one process each cannot tell, {found.ended}; {MEMORY_REPEATS} would"
    return Measured(
        AFRESH,
        claim,
        effect,
        statistics.median(peaks[BASELINE]),
        statistics.median(peaks[TREATMENT]),
        _judge(effect, claim),
        count,
        peaks,
        reason=reason,
        ended=found.ended,
        repeated="processes",
    )


def outcomes(metric: str, claim: Claim, seeds: Seeds) -> Measured:
    """What training came to, over shared seeds. Raises BadInput for a metric that nobody records."""
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
        reason = None if holds is not None else _too_few(count, seeds.ended, Setting.seeds)
        return Measured(
            metric,
            claim,
            _point(mean),
            None,
            mean,
            verdict,
            count,
            samples,
            None,
            reason,
            seeds.ended,
            "seeds",
        )
    if claim.scale == "ratio":
        pairs = [one / other for one, other in zip(treatment, baseline, strict=True)]
    else:
        pairs = [one - other for one, other in zip(treatment, baseline, strict=True)]
    effect = _estimate(pairs)
    verdict, reason = _judge(effect, claim), None
    if verdict == "inconclusive":
        neutral = 1.0 if claim.scale == "ratio" else 0.0
        margin = MARGIN if claim.scale == "ratio" else MARGIN_OF_DIFFERENCE
        needed = (
            Setting.seeds if count == 1 else rounds_to_decide(effect, count, neutral=neutral, margin=margin)
        )
        reason = _too_few(count, seeds.ended, needed)
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
        repeated="seeds",
    )


def _too_few(count: int, ended: str | None, needed: int) -> str:
    said = "one seed cannot tell" if count == 1 else f"{count} seeds do not tell"
    return f"{said}{f', {ended}' if ended else ''}; about {needed} would"


def _judge(effect: Interval, claim: Claim) -> Verdict:
    if claim.scale == "ratio":
        return judge(effect, neutral=1.0, margin=MARGIN, better=claim.better)
    return judge(effect, neutral=0.0, margin=MARGIN_OF_DIFFERENCE, better=claim.better)


def _estimate(values: list[float]) -> Interval:
    """The mean; equal in every repetition, nothing is uncertain about it. Of one value nothing is certain."""
    return _point(values[0]) if len(values) > 1 and len(set(values)) == 1 else mean_interval(values)


def _point(value: float) -> Interval:
    return Interval(value, value, value)
