"""Which training goes on, which stops, and what is re-used."""

from fulldeck.tuning.goal import aim
from fulldeck.tuning.halving import FIRST, Halving, rungs
from fulldeck.tuning.history import History

ACCURATE = aim("maximize accuracy", (), None)


def searched(
    count: int, accuracies: list[float], *, foretold: bool = True, first: int = FIRST
) -> tuple[History, Halving]:
    """A baseline and the first trials, which have ended, and trials that have reached the first rung.

    The first rung has the first trials in the order of the end, or, not `foretold`, the other way round.
    """
    history = History()
    history.tell(rungs=rungs(10**6)[-count:])
    history.add({"n": -1}, "baseline", "")
    for _ in range(count):
        history.reached("baseline", {"accuracy": 0.5, "train_seconds": 1.0})
    history.finish(0, {"accuracy": 0.5}, 1.0)
    for number in range(1, first + 1):
        history.add({"n": -1 - number}, f"first {number}", "")
        for rung in range(count):
            order = number if foretold or rung == count - 1 else -number
            history.reached(f"first {number}", {"accuracy": 0.04 + order / 1000})
        history.finish(number, {"accuracy": 0.04 + number / 1000}, 1.0)
    for place, accuracy in enumerate(accuracies):
        history.add({"n": place}, f"training {place}", "")
        history.reached(f"training {place}", {"accuracy": accuracy})
    return history, Halving(history, ACCURATE, count)


def test_rungs_are_thirds_that_are_long_enough_to_say_something() -> None:
    assert rungs(10_000) == (1 / 27, 1 / 9, 1 / 3, 1)
    assert rungs(100) == (1 / 3, 1)
    assert rungs(10) == (1,)


def test_only_the_best_third_goes_on() -> None:
    history, halving = searched(3, [0.3, 0.1, 0.7, 0.6, 0.2, 0.65])
    assert history.trials[FIRST + 1].number % 6 == 0, "this one is not stopped in any case"
    going, busy = [], {"training 0"}
    while (job := halving.next(busy)) is not None:
        assert (job.rung, job.last) == (1, False)
        going.append(job.trial.values["n"])
        busy.add(job.trial.key)
    assert going == [2, 5, 3], "4 of 12 are the best third, and the recipe as it is is one of them"
    assert halving.last(busy) is not None, "unless there are to be no new ones"


def test_what_is_not_stopped_goes_on_though_it_is_bad() -> None:
    _, halving = searched(3, [0.01, 0.02])
    job = halving.next(())
    assert job is not None
    assert (job.trial.values["n"], job.rung) == (0, 1), "the sixth trial, whatever it looks like"
    assert halving.next({"training 0"}) is None


def test_a_rung_that_does_not_foretell_the_end_stops_nobody() -> None:
    history, halving = searched(3, [0.01, 0.02, 0.03], foretold=False)
    assert not halving.foretells(0)
    busy: set[str] = set()
    while (job := halving.next(busy)) is not None:
        busy.add(job.trial.key)
    assert busy == {"training 0", "training 1", "training 2"}
    _, halving = searched(3, [0.01, 0.02, 0.03])
    assert halving.foretells(0)
    assert len(history.trials) == FIRST + 4


def test_a_trial_whose_training_is_there_only_has_to_end() -> None:
    history, halving = searched(3, [])
    history.add({"n": 9, "form": "small"}, "baseline", "")
    job = halving.next(())
    assert job is not None
    assert job.trial.values["n"] == 9
    assert job.last


def test_trials_that_share_a_training_wait_for_it() -> None:
    history, halving = searched(3, [])
    history.add({"n": 0}, "one", "")
    history.add({"n": 1}, "one", "")
    job = halving.next(())
    assert job is not None
    assert job.trial.values["n"] == 0
    assert halving.next({"one"}) is None


def test_what_cannot_meet_a_condition_is_given_up() -> None:
    history, _ = searched(3, [0.1, 0.2, 0.45], first=0)
    halving = Halving(history, aim("minimize artifact_bytes", ("accuracy >= 0.6",), None), 3)
    assert halving.why_hopeless("training 0", {"accuracy": 0.1}) is None, (
        "nobody knows yet what may be gained"
    )
    for number in (7, 8):
        history.add({"n": number}, f"whole {number}", "")
        for accuracy in (0.5, 0.55, 0.6):
            history.reached(f"whole {number}", {"accuracy": accuracy})
    why = halving.why_hopeless("training 0", {"accuracy": 0.1})
    assert why is not None
    assert "accuracy >= 0.6: it is at 0.1" in why
    assert halving.why_hopeless("training 2", {"accuracy": 0.5}) is None
    history.give_up("training 2", why)
    assert all(job is None or job.trial.key != "training 2" for job in (halving.next(()), halving.last(())))


def test_time_that_is_spent_does_not_come_back() -> None:
    history, _ = searched(3, [])
    halving = Halving(history, aim("maximize accuracy", ("train_seconds <= 2 * baseline",), None), 3)
    history.trials[0].figures = {"accuracy": 0.5, "train_seconds": 1.0}
    assert halving.why_hopeless("x", {"train_seconds": 2.1}) is None, "times waver"
    assert halving.why_hopeless("x", {"train_seconds": 2.3}) is not None
