"""The statistics of verdicts, on seeded noise: false verdicts stay rare although one looks five times."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fulldeck.evidence.statistics import (
    ALPHA,
    LOOKS,
    MARGIN,
    Interval,
    judge,
    left,
    mean_interval,
    median_interval,
    noisy,
    rounds_to_decide,
    spent,
)

SETS = 1000
RECORDED = json.loads((Path(__file__).parent / "step_times.json").read_text())
"""Milliseconds of a training step beside other work, recorded by benchmarks/verdicts.py --record."""


def recorded(random: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Rounds of recorded times, drawn in runs of ten, so that slow spells stay together."""
    times = np.asarray(RECORDED["milliseconds"])
    starts = random.integers(0, len(times) - 10, math.ceil(count / 10))
    return np.concatenate([times[start : start + 10] for start in starts])[:count]


def heavy_tails(random: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Times of which one in ten is far too long."""
    return 1 + 0.01 * random.standard_normal(count) + (random.random(count) < 0.1) * random.pareto(1.5, count)


def decided(ratios: npt.NDArray[np.float64]) -> str:
    """The verdict as `verify` comes to it: at the first look that decides; or when the time is up, after the last."""
    looks = [(due, spent(look)) for look, due in enumerate(LOOKS) if due <= len(ratios)]
    if len(ratios) < LOOKS[-1]:
        looks.append((len(ratios), left(len(ratios))))
    for rounds, alpha in looks:
        effect = median_interval(ratios[:rounds].tolist(), alpha)
        verdict = judge(effect, neutral=1.0, margin=MARGIN, better="lower")
        if verdict != "inconclusive":
            break
    return verdict


@pytest.mark.parametrize("noise", [recorded, heavy_tails])
def test_equal_arms_are_seldom_told_apart(noise) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(0)
    verdicts = []
    for _ in range(SETS):
        # One machine, two arms in each round: neighbouring times, in random order.
        times = noise(random, 2 * LOOKS[-1]).reshape(-1, 2)
        swap = random.random(len(times)) < 0.5
        one, other = np.where(swap, times[:, 0], times[:, 1]), np.where(swap, times[:, 1], times[:, 0])
        verdicts.append(decided(one / other))
    false = sum(verdict in ("helps", "hurts") for verdict in verdicts)
    assert false <= ALPHA * SETS


def test_power_on_a_slow_down_of_ten_per_cent() -> None:
    """With 5 % of noise a round, a slow-down of a tenth is always found, mostly at the first look."""
    random = np.random.default_rng(1)
    found = [decided(1.1 * np.exp(0.05 * random.standard_normal(LOOKS[-1]))) for _ in range(200)]
    assert found.count("hurts") >= 198
    first = [
        judge(
            median_interval((1.1 * np.exp(0.05 * random.standard_normal(LOOKS[0]))).tolist(), spent(0)),
            neutral=1.0,
            margin=MARGIN,
            better="lower",
        )
        for _ in range(200)
    ]
    assert first.count("hurts") >= 180


def test_a_noisy_machine_takes_longer_and_still_tells() -> None:
    """With 8 % of noise a round equal arms are found equal in the end, which 60 rounds seldom do."""
    random = np.random.default_rng(3)
    noise = [np.exp(0.08 * random.standard_normal(LOOKS[-1])) for _ in range(200)]
    assert [decided(one) for one in noise].count("no difference") >= 180
    assert [decided(1.1 * one) for one in noise].count("hurts") >= 198


def test_the_looks_together_spend_alpha() -> None:
    assert sum(spent(look) for look in range(len(LOOKS))) == pytest.approx(ALPHA)


@pytest.mark.parametrize("rounds", [15, 16, 47, 120, 239])
def test_a_last_look_when_the_time_is_up_spends_what_is_left(rounds: int) -> None:
    before = sum(spent(look) for look, due in enumerate(LOOKS) if due <= rounds)
    assert before + left(rounds) == pytest.approx(ALPHA)
    random = np.random.default_rng(rounds)
    verdicts = [decided(np.exp(0.08 * random.standard_normal(rounds))) for _ in range(SETS // 2)]
    assert sum(verdict in ("helps", "hurts") for verdict in verdicts) <= 1.3 * ALPHA * len(verdicts)


def test_the_median_interval_covers() -> None:
    random = np.random.default_rng(2)
    inside = 0
    for _ in range(SETS):
        interval = median_interval(random.exponential(size=30).tolist())
        inside += interval.low <= math.log(2) <= interval.high
    assert inside >= 0.95 * SETS


def test_five_values_are_too_few_for_a_median_interval() -> None:
    assert median_interval([1.0, 1.1, 1.2, 1.0, 1.05]) == Interval(1.05, -math.inf, math.inf)


def test_the_mean_interval_is_students() -> None:
    interval = mean_interval([0.01, 0.02, 0.03, 0.02, 0.02])
    assert interval.estimate == pytest.approx(0.02)
    assert interval.high - interval.estimate == pytest.approx(
        2.776 * np.std([1, 2, 3, 2, 2], ddof=1) / 100 / 5**0.5, rel=1e-3
    )
    assert mean_interval([0.5]).high == math.inf


@pytest.mark.parametrize(
    ("low", "high", "better", "verdict"),
    [
        (0.5, 0.6, "lower", "helps"),
        (0.5, 0.6, "higher", "hurts"),
        (0.98, 1.02, "lower", "no difference"),
        (0.971, 0.99, "lower", "no difference"),
        (0.9, 1.01, "lower", "inconclusive"),
        (1.05, 1.2, "lower", "hurts"),
    ],
)
def test_verdicts(low: float, high: float, better: str, verdict: str) -> None:
    effect = Interval((low + high) / 2, low, high)
    assert judge(effect, neutral=1.0, margin=MARGIN, better=better) == verdict  # type: ignore[arg-type]


def test_a_noisy_machine_is_named() -> None:
    assert noisy(Interval(1.0, 0.98, 1.02)) is None
    said = noisy(Interval(1.0, 0.9, 1.1))
    assert said is not None
    assert "too noisy" in said


def test_how_many_rounds_would_decide() -> None:
    # Half as wide takes four times the rounds.
    assert rounds_to_decide(Interval(1.1, 0.9, 1.3), 15) == 60
