"""Claims are read, and held against intervals."""

from __future__ import annotations

import pytest

from fulldeck.errors import BadInput
from fulldeck.evidence.claim import Claim
from fulldeck.evidence.statistics import Interval


@pytest.mark.parametrize(
    ("text", "scale", "better", "bound"),
    [
        ("<= 0.6x", "ratio", "lower", 0.6),
        (">= +0.02", "difference", "higher", 0.02),
        (">= -0.005", "difference", "higher", -0.005),
        (">= 0.99", "alone", "higher", 0.99),
        (">= 10x", "ratio", "higher", 10.0),
    ],
)
def test_forms(text: str, scale: str, better: str, bound: float) -> None:
    claim = Claim.parse(text)
    assert (claim.scale, claim.better, claim.bound) == (scale, better, bound)


@pytest.mark.parametrize("text", ["fast", "< 0.6x", "<= x", ">= +0.2x", ""])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="a claim reads like"):
        Claim.parse(text)


def test_the_bound_must_be_cleared_by_the_whole_interval() -> None:
    claim = Claim.parse("<= 0.6x")
    assert claim.holds(Interval(0.5, 0.4, 0.6)) is True
    assert claim.holds(Interval(0.6, 0.5, 0.7)) is None
    assert claim.holds(Interval(0.7, 0.65, 0.8)) is False
    assert Claim.parse(">= +0.02").holds(Interval(0.03, 0.025, 0.04)) is True
