"""The gate: what counts as broken, and what is measured."""

from __future__ import annotations

import numpy as np
import pytest

from fulldeck.candidate import Tolerance
from fulldeck.pipeline.gate import Measured, agreement, breaches, changes


def measured(outputs: list[list[float]], **metrics: float) -> Measured:
    return Measured(np.array(outputs), metrics, bytes=100, latency_ms=1.0)


BEFORE = measured([[1.0, 0.0], [0.0, 1.0], [0.2, 0.8], [0.9, 0.1]], accuracy=0.90)


def test_nothing_is_broken_by_the_same_outputs() -> None:
    strict = Tolerance(metric_drop=0.0, difference=0.0, agreement=1.0)
    assert breaches(BEFORE, BEFORE, strict) == []


@pytest.mark.parametrize(
    ("metric", "value", "broken"),
    [("accuracy", 0.88, True), ("accuracy", 0.95, False), ("rmse", 0.95, True), ("rmse", 0.85, False)],
)
def test_a_metric_may_only_get_worse_by_its_tolerance(metric: str, value: float, broken: bool) -> None:
    before = measured([[1.0, 0.0]], **{metric: 0.90})
    found = breaches(before, measured([[1.0, 0.0]], **{metric: value}), Tolerance(metric_drop=0.01))
    assert bool(found) is broken
    if broken:
        assert found[0].startswith(f"{metric} went from 0.9000 to {value:.4f} on validation data")


def test_differences_and_disagreements_are_told_with_their_figures() -> None:
    after = measured([[0.4, 0.6], [0.0, 1.0], [0.2, 0.8], [0.9, 0.1]], accuracy=0.90)
    found = breaches(BEFORE, after, Tolerance(difference=0.1, agreement=0.99))
    assert found == [
        "outputs differ by up to 0.6, and may by 0.1",
        "only 75.00% of the predictions are the same, and 99.00% must be",
    ]


def test_outputs_that_are_not_finite_are_never_accepted() -> None:
    after = measured([[float("nan"), 0.0]] * 4, accuracy=0.90)
    assert "its outputs are not finite" in breaches(BEFORE, after, Tolerance(metric_drop=None))


def test_single_valued_outputs_agree_within_a_hundredth_of_their_spread() -> None:
    values = np.array([[1.0], [2.0], [3.0]])
    assert agreement(values, values + 1e-4) == 1.0
    assert agreement(values, values + 0.5) == 0.0


def test_changes_hold_each_figure_before_and_after() -> None:
    after = measured([[0.9, 0.0], [0.0, 1.0], [0.2, 0.8], [0.9, 0.1]], accuracy=0.91)
    found = changes(BEFORE, after)
    assert found["accuracy"] == {"before": 0.90, "after": 0.91}
    assert found["difference"]["after"] == pytest.approx(0.1)
    assert found["agreement"] == {"after": 1.0}
