"""Goals as they are written, and what they ask of figures."""

import pytest

from fulldeck.errors import BadInput
from fulldeck.recipe.recipe import Goal
from fulldeck.tuning.goal import Aim, aim, parse_condition, parse_objective

BASE = {"accuracy": 0.9, "latency_p99_ms": 4.0, "artifact_bytes": 1000.0}


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("accuracy >= baseline - 0.01", 0.89),
        ("accuracy >= baseline", 0.9),
        ("accuracy>=0.95", 0.95),
        ("artifact_bytes <= 0.5 * baseline", 500.0),
        ("artifact_bytes <= baseline * 0.5 + 10", 510.0),
        ("artifact_bytes <= 1e6", 1e6),
    ],
)
def test_conditions(text: str, limit: float) -> None:
    condition = parse_condition(text)
    assert condition.limit(BASE) == pytest.approx(limit)
    assert str(condition) == text


@pytest.mark.parametrize(
    "text", ["accuracy > 0.9", "accuracy >= better", "0.9 <= accuracy", "accuracy", "a >= 1 2"]
)
def test_what_is_no_condition_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadInput, match="a condition is such as"):
        parse_condition(text)


@pytest.mark.parametrize("text", ["accuracy", "minimise accuracy", "maximize the accuracy"])
def test_what_is_no_goal_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match='a goal is "minimize FIGURE"'):
        parse_objective(text)


def test_the_recipes_goal_counts_where_the_command_line_states_none() -> None:
    own = Goal(minimize="latency_p99_ms", subject_to=("accuracy >= 0.9",))
    assert str(aim(None, (), own).objective) == "minimize latency_p99_ms"
    assert [str(one) for one in aim(None, ("artifact_bytes <= 9",), own).conditions] == [
        "accuracy >= 0.9",
        "artifact_bytes <= 9",
    ]
    assert aim("maximize accuracy", (), own) == Aim(parse_objective("maximize accuracy"))
    for nothing in (None, Goal(), Goal(minimize="a", maximize="b")):
        with pytest.raises(BadInput, match="say what to search for"):
            aim(None, (), nothing)


def test_an_unknown_figure_names_the_nearest() -> None:
    with pytest.raises(BadInput, match='no figure "acuracy"; did you mean accuracy'):
        aim("maximize acuracy", (), None).check(BASE)
    with pytest.raises(BadInput, match="comes from the rehearsal of a package"):
        aim("minimize latency_p99_ms", (), None).check(["accuracy", "loss"])


def test_conditions_count_before_the_objective() -> None:
    wanted = aim("minimize latency_p99_ms", ("accuracy >= baseline - 0.01",), None)
    good = {"accuracy": 0.9, "latency_p99_ms": 3.0}
    fast = {"accuracy": 0.8, "latency_p99_ms": 1.0}
    slow = {"accuracy": 0.95, "latency_p99_ms": 5.0}
    assert sorted([fast, slow, good], key=lambda one: wanted.standing(one, BASE)) == [good, slow, fast]
    assert wanted.feasible(good, BASE)
    assert not wanted.feasible(fast, BASE)
    assert not wanted.feasible({"latency_p99_ms": 1.0}, BASE), "what is not known is not met"
