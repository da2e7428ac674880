"""Effects as a person reads them."""

import math

import pytest

from fulldeck.report.effects import claimed, difference, effect_text, measured, ratio_text
from fulldeck.report.words import si
from tests.report.measurements import cost, evidence

BLANK = "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("claim", "means"),
    [
        ("<= 0.6x", ("ratio", 0.6, True)),
        (">= +0.02", ("difference", 0.02, False)),
        (">= -0.005", ("difference", -0.005, False)),
        (">= 0.99", ("alone", 0.99, False)),
    ],
)
def test_what_a_claim_compares(claim: str, means: tuple[str, float, bool]) -> None:
    assert claimed(claim) == means


def test_effects_with_their_intervals() -> None:
    assert ratio_text(0.62, [0.6, 0.65]).replace(BLANK, " ") == "0.62× (0.60× to 0.65×)"
    assert ratio_text(1.004, [0.99, 1.02]).replace(BLANK, " ") == "1.004× (0.990× to 1.020×)"
    assert ratio_text(1.0, [1.0, 1.0]) == "1.000×"
    assert ratio_text(0.8, [-math.inf, math.inf]) == "0.80× (too few measurements for an interval)"
    assert effect_text(cost()).replace(BLANK, " ") == "+0.11 pp (-0.21 pp to +0.43 pp)"
    assert effect_text(evidence()[5]) == "1"


def test_figures_in_their_units() -> None:
    assert measured("step_time", 9.1) == f"9.1{BLANK}ms"
    assert measured("peak_memory", 1.2e9) == f"1.2{BLANK}GB"
    assert difference("perplexity", -0.25) == "-0.25"


@pytest.mark.parametrize(
    ("value", "text"),
    [(105e9, "105 GFLOP/s"), (999.6, "1 kFLOP/s"), (0, "0 FLOP/s"), (9e-7, "900 nFLOP/s")],
)
def test_rates(value: float, text: str) -> None:
    assert si(value, "FLOP/s") == text.replace(" ", BLANK)
