"""The fastest of several engines, by turns."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fulldeck.engines.choice import fastest, milliseconds

INPUTS = {"input": np.ones((1, 4), np.float32)}


class Busy:
    """An engine that does so many times the work."""

    name = "busy"

    def __init__(self, work: int) -> None:
        self.work = work
        self.calls = 0

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.calls += 1
        sum(range(self.work))
        return {"output": inputs["input"]}


def test_the_one_with_least_work_is_first_and_the_others_drop_out() -> None:
    engines = {"slow": Busy(200_000), "quick": Busy(2_000), "slower": Busy(400_000)}
    found = fastest(engines, INPUTS, looks=(7, 14))
    assert list(found) == ["quick", "slow", "slower"]
    assert found["quick"].ratio.estimate == 1.0
    assert found["slow"].ratio.low > 10
    assert all(timed.rounds == 7 for timed in found.values()), "decided at the first look"


def test_equal_ones_stay_to_the_last_look() -> None:
    found = fastest({"one": Busy(2_000), "other": Busy(2_000)}, INPUTS, looks=(6, 7))
    assert {timed.rounds for timed in found.values()} <= {6, 7}
    assert all(0.3 < timed.ratio.estimate < 3 for timed in found.values())


def test_a_single_engine_needs_no_rival() -> None:
    found = fastest({"only": Busy(1_000)}, INPUTS, looks=(6,))
    assert list(found) == ["only"]
    assert found["only"].latency.estimate > 0


def test_a_screening_calls_it_a_few_times() -> None:
    engine = Busy(1_000)
    assert milliseconds(engine, INPUTS, 5) > 0
    assert engine.calls == 6
