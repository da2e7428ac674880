"""Where operators stand under the roofs."""

import math
import re
from typing import Any

import pytest

from fulldeck.report.roofline import roofline
from tests.report.measurements import CEILINGS, operator

SIZES = [(820, 480), (360, 380)]


def middle(path: str) -> tuple[float, float]:
    """Of a circle's path."""
    x, y, r = map(float, re.match(r"M([\d.]+) ([\d.]+)a([\d.]+)", path).groups())  # type: ignore[union-attr]
    return x + r, y


@pytest.mark.parametrize("size", SIZES)
def test_an_operator_at_its_ceiling_lies_on_the_roof(size: tuple[int, int]) -> None:
    full = operator("mm", "forward", 1.0, 105e6, 1e6)
    drawn = roofline([full], CEILINGS, *size)
    _, y = middle(drawn["marks"][0]["path"])
    roof = next(roof for roof in drawn["roofs"] if roof["used"])
    assert f" {y}H" in roof["path"]


def test_one_that_only_moves_bytes_is_as_far_below_the_memory_roof_as_it_is_slower() -> None:
    shares = (1.0, 0.5, 0.25)
    moved = [operator("add", "forward", 1.0, 0, share * 33e6) for share in shares]
    drawn = roofline([*moved, operator("mm", "forward", 0.5, 5e6, 1e6)], CEILINGS, 820, 480)
    flat = float(re.match(r"M\d+ ([\d.]+)H", drawn["memory"]["path"])[1])  # type: ignore[index]
    whole, half, quarter = (middle(mark["path"])[1] for mark in drawn["marks"][:3])
    assert whole == pytest.approx(flat, abs=0.1)
    assert half - whole == pytest.approx(quarter - half, abs=0.2)
    assert half - whole > 5


def test_slow_types_that_are_not_in_use_are_no_roofs() -> None:
    drawn = roofline([operator("mm", "forward", 1.0, 1e6, 1e5)], CEILINGS, 820, 480)
    assert [roof["text"].split()[0] for roof in drawn["roofs"]] == ["int8", "bfloat16", "float32"]


@pytest.mark.parametrize("size", SIZES)
def test_names_never_cover_each_other_and_stay_inside(size: tuple[int, int]) -> None:
    many = [
        operator(f"operator_{place}", "forward", 1.0 + place, 1e6 * (1 + place % 4), 1e5)
        for place in range(30)
    ]
    marks = roofline(many, CEILINGS, *size)["marks"]
    labels = [mark["label"] for mark in marks if mark["label"]]
    assert 1 <= len(labels) < 30
    places = [(label["y"], label["x"], label["anchor"]) for label in labels]
    assert len(set(places)) == len(places)
    assert all(0 <= label["x"] <= size[0] and 0 <= label["y"] <= size[1] for label in labels)


def test_the_name_of_the_memorys_roof_makes_room_for_marks() -> None:
    alone = roofline([operator("mm", "forward", 1.0, 1e9, 1e6)], CEILINGS, 820, 480)["memory"]
    x, y = alone["x"] + 4, alone["y"] + 6
    there = None
    for intensity in [1.02**power for power in range(400)]:
        moved = 1e6
        one = operator("mv", "forward", 1.0, intensity * moved, moved) | {
            "flops_per_s": intensity * CEILINGS["bytes_per_s"]
        }
        drawn = roofline([operator("mm", "forward", 1.0, 1e9, 1e6), one], CEILINGS, 820, 480)
        at = middle(drawn["marks"][1]["path"])
        if math.hypot(at[0] - x, at[1] - y) < 10:
            there = drawn["memory"]
    assert there is not None
    assert abs(there["x"] - alone["x"]) > 20


@pytest.mark.parametrize(
    "odd",
    [
        {
            "flops": 0,
            "flops_per_s": 0.0,
            "bytes": 0,
            "bytes_per_s": 0.0,
            "bytes_of_ceiling": 0.0,
            "intensity": None,
        },
        {"flops": 1.0, "flops_per_s": 1.0, "intensity": None},
        {"flops_per_s": 1e15, "intensity": 1e9},
    ],
)
def test_odd_operators_stay_in_the_frame(odd: dict[str, Any]) -> None:
    drawn = roofline([operator("odd", "forward", 1.0, 1e6, 1e5) | odd], CEILINGS, 820, 480)
    x, y = middle(drawn["marks"][0]["path"])
    assert math.isfinite(x)
    assert drawn["left"] <= x <= drawn["right"]
    assert drawn["top"] <= y <= drawn["bottom"]
