"""Places in drawings."""

import re

import pytest

from fulldeck.report.drawings import HEIGHT, MARGIN, WIDTH, calibration, predictions, residuals


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]?([\d.]+) ([\d.]+)", path)]


def test_exact_predictions_lie_on_the_line() -> None:
    drawn = predictions([[value, value] for value in range(10)])
    (x0, y0), (x1, y1) = places(drawn["line"])
    for x, y in places(drawn["points"]):
        assert y == pytest.approx(y0 + (y1 - y0) * (x - x0) / (x1 - x0), abs=0.1)


def test_residuals_above_the_line_are_predictions_that_are_too_high() -> None:
    drawn = residuals([[1.0, 2.0], [3.0, 2.5]])
    zero = places(drawn["line"])[0][1]
    (_, first), (_, second) = places(drawn["points"])
    assert first < zero < second


@pytest.mark.parametrize(
    "points",
    [
        [],
        [[5.0, 5.0]],
        [[0.0, 0.0]],
        [[1.0, float("nan")], [1.0, 2.0]],
        [[1e-300, 1e-300], [1e300, 1e300]],
        [[1e12, 1e12 + 1]],
    ],
)
def test_odd_points_stay_in_the_frame(points: list[list[float]]) -> None:
    for drawn in (predictions(points), residuals(points)):
        for x, y in places(drawn["points"]):
            assert MARGIN <= x <= WIDTH
            assert 0 <= y <= HEIGHT - MARGIN
        assert len(drawn["ticks_x"]) >= 2


def test_calibration_marks_grow_with_their_count() -> None:
    drawn = calibration(
        [{"confidence": 0.5, "accuracy": 0.5, "count": 1}, {"confidence": 1.0, "accuracy": 1.0, "count": 99}]
    )
    (_, _, small), (_, _, large) = drawn["marks"]
    assert small < large
