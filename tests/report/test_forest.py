"""Places in forest plots."""

import math

import pytest

from fulldeck.report.forest import Effect, forest


def effect(estimate: float, low: float, high: float, **more: object) -> Effect:
    return Effect("a", "", "", "helps", estimate, (low, high), **more)  # type: ignore[arg-type]


def test_twice_and_half_are_as_far_from_no_change() -> None:
    drawn = forest("t", [effect(0.5, 0.4, 0.6), effect(2.0, 1.8, 2.4)], ratios=True)
    half, twice = (float(row["estimate"]) for row in drawn["rows"])
    assert float(drawn["neutral"]) - half == pytest.approx(twice - float(drawn["neutral"]), abs=0.02)


def test_an_unbounded_interval_ends_at_the_edges_and_says_so() -> None:
    (row,) = forest("t", [effect(0.8, -math.inf, math.inf, before=0.7)], ratios=True)["rows"]
    assert row["interval"] == ["0.00", "100.00"]
    assert row["beyond"] == (True, True)


def test_one_absurd_interval_does_not_squeeze_the_others() -> None:
    drawn = forest("t", [effect(0.01, -5.0, 5.0), effect(0.02, 0.015, 0.025)], ratios=False)
    low, high = map(float, drawn["rows"][1]["interval"])
    assert high - low > 5


@pytest.mark.parametrize("ratios", [True, False])
def test_no_effect_at_all(ratios: bool) -> None:
    neutral = 1.0 if ratios else 0.0
    drawn = forest("t", [effect(neutral, neutral, neutral)], ratios=ratios)
    assert drawn["rows"][0]["estimate"] == drawn["neutral"] == "50.00"
    assert len(drawn["ticks"]) >= 2


def test_differences_of_shares_are_written_in_points() -> None:
    drawn = forest("t", [effect(0.02, 0.01, 0.03)], ratios=False, share=True)
    assert "+2\N{NO-BREAK SPACE}pp" in [text for _, text in drawn["ticks"]]
    assert "0" in [text for _, text in drawn["ticks"]]
