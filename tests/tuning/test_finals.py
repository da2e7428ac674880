"""The answer: intervals meet the goal, points do not."""

import pytest

from fulldeck.tuning.finals import choose, finalist, judged, pareto, plan_of
from fulldeck.tuning.goal import aim
from fulldeck.tuning.history import Trial

WANTED = aim("minimize artifact_bytes", ("accuracy >= baseline - 0.01",), None)


def trial(number: int, size: float, accuracies: list[float]) -> Trial:
    made = Trial(number, {}, str(number), "", {"artifact_bytes": size, "accuracy": accuracies[0]})
    made.finals = {
        seed: {"artifact_bytes": size, "accuracy": 0.0, "test_accuracy": one}
        for seed, one in enumerate(accuracies)
    }
    return made


BASELINE = trial(0, 100.0, [0.90, 0.92, 0.91, 0.93, 0.90])


def test_test_data_judge() -> None:
    assert judged({"accuracy": 0.5, "test_accuracy": 0.4, "loss": 1.0}) == {"accuracy": 0.4, "loss": 1.0}


def test_a_lucky_mean_does_not_meet_the_goal() -> None:
    lucky = finalist(trial(1, 10.0, [0.99, 0.84, 0.95, 0.88, 0.92]), BASELINE, WANTED)
    steady = finalist(trial(2, 50.0, [0.90, 0.92, 0.91, 0.925, 0.90]), BASELINE, WANTED)
    own = finalist(BASELINE, BASELINE, WANTED)
    assert lucky is not None
    assert steady is not None
    assert own is not None
    assert lucky.figures["accuracy"].estimate > steady.figures["accuracy"].estimate
    assert not lucky.satisfied
    assert steady.satisfied
    assert own.satisfied, "the recipe as it is loses nothing against itself"
    assert choose([own, lucky, steady], WANTED) is steady
    assert steady.gain.estimate == pytest.approx(0.5)


def test_what_nothing_meets_says_who_comes_nearest() -> None:
    wanted = aim("minimize artifact_bytes", ("accuracy >= 0.99",), None)
    found = [
        finalist(trial(n, 10.0, [level] * 3), BASELINE, wanted)
        for n, level in ((1, 0.8), (2, 0.97), (3, 0.9))
    ]
    best = choose([one for one in found if one is not None], wanted)
    assert not best.satisfied
    assert best.trial.number == 2
    assert best.missed[0].shortfall.estimate == pytest.approx(0.02)


def test_one_seed_proves_nothing() -> None:
    one = finalist(trial(1, 10.0, [0.99]), BASELINE, WANTED)
    assert one is not None
    assert not one.satisfied


def test_the_front_has_what_nobody_betters() -> None:
    trials = [
        trial(0, 100, [0.9]),
        trial(1, 50, [0.9]),
        trial(2, 50, [0.8]),
        trial(3, 20, [0.7]),
        trial(4, 60, [0.95]),
    ]
    assert [one.number for one in pareto(trials, WANTED)] == [3, 1, 4]


def test_measuring_again_fits_into_its_share_of_the_time() -> None:
    assert plan_of(1800, [10, 10, 10], 10) == (3, 5)
    assert plan_of(300, [10, 10, 10], 10) == (2, 3)
    assert plan_of(20, [10], 10) == (1, 3), "less would tell nothing"
