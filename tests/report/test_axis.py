"""From values to places on an axis."""

import pytest

from fulldeck.report.axis import Axis


def test_places() -> None:
    assert Axis(0, 10).place(2.5) == 0.25
    assert Axis(1, 100, log=True).place(10) == pytest.approx(0.5)
    assert Axis(0, 10).place(float("-inf")) == 0.0
    assert Axis(1, 100, log=True).place(1e9) == 1.0


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0, 10), [0, 2, 4, 6, 8, 10]),
        (Axis(0.9, 1.1, log=True), [0.9, 0.95, 1.0, 1.05, 1.1]),
        (Axis(0.15, 6, log=True), [0.2, 0.5, 1, 2, 5]),
        (Axis(0.5, 2e4, log=True), [1, 10, 100, 1000, 10000]),
    ],
)
def test_round_values_beside_it(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks() == pytest.approx(ticks)
