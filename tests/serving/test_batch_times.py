import pytest

from fulldeck.serving.batch_times import BatchTimes


def times(*sizes: tuple[int, float], first: float = 1.0) -> BatchTimes:
    """Each size with its milliseconds; the first batch of a size took `first` times as long."""
    made = BatchTimes()
    made.learn([(rows, first * ms / 1000, ms / 1000, 2 * ms / 1000) for rows, ms in sizes])
    return made


def test_a_model_whose_time_does_not_grow_takes_all_that_waits() -> None:
    assert [times((1, 1), (8, 1.1), (64, 1.2)).best(most) for most in (1, 5, 64)] == [1, 5, 64]


def test_a_model_whose_time_grows_with_the_rows_takes_one() -> None:
    assert times((1, 10), (2, 19.5), (4, 39), (8, 80)).best(8) == 1


def test_it_stops_where_more_rows_bring_little() -> None:
    assert times((1, 10), (2, 11), (4, 14), (8, 28), (16, 56)).best(16) == 4


def test_an_engine_that_prepares_for_sizes_gets_those_only() -> None:
    made = times((1, 1), (2, 1.2), (4, 1.5), (8, 2), first=9)
    assert [made.size(rows) for rows in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]
    assert made.best(7) == 7, "filled up to 8, which is still faster than 4 and then 3"
    assert times((1, 1), (2, 1.2), (4, 1.5), (8, 2)).size(5) == 5


def test_filling_up_must_pay() -> None:
    made = times((1, 1), (2, 1.1), (4, 1.2), (8, 4), first=9)
    assert made.best(5) == 4


def test_what_is_not_measured_is_on_the_line_or_in_proportion() -> None:
    made = times((2, 10), (4, 20))
    assert made.slowest(3) == pytest.approx(0.030)
    assert made.slowest(1) == pytest.approx(0.020)
    assert made.slowest(8) == pytest.approx(0.080)
    assert BatchTimes().slowest(8) == 0


def test_it_follows_a_machine_that_has_become_slower_and_forgets_one_slow_batch() -> None:
    made = times((1, 10))
    for _ in range(200):
        made.ran(1, 0.020, 0.0)
    assert made.seconds(1) == pytest.approx(0.020, rel=0.02)
    made.ran(1, 5.0, 0.0)
    assert made.slowest(1) == 5.0
    for _ in range(10_000):
        made.ran(1, 0.020, 0.0)
    assert made.slowest(1) < 0.2
