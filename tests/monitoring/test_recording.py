import math

import numpy as np
import pytest

from fulldeck.monitoring.recording import ROWS, SECONDS, Histogram


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("spread", [0.2, 1.0, 2.0])
def test_quantiles_are_within_one_percent(share: float, spread: float) -> None:
    values = np.random.default_rng(0).lognormal(math.log(0.02), spread, 100_000).clip(1e-5, 100)
    histogram = Histogram(SECONDS)
    for value in values.tolist():
        histogram.observe(value)
    exact = float(np.quantile(values, share, method="inverted_cdf"))
    found = histogram.quantile(histogram.counts(), share)
    assert found == pytest.approx(exact, rel=0.01)


def test_prometheus_gets_exact_counts_at_its_bounds() -> None:
    values = [*np.random.default_rng(1).lognormal(-4, 2, 5_000).tolist(), 0.0, 0.0005, 30.0, 31.0, 1e9]
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    pairs, total = histogram.cumulative()
    assert pairs == [(bound, sum(value <= bound for value in values)) for bound in (*SECONDS, math.inf)]
    assert total == pytest.approx(sum(values))


def test_batches_of_whole_rows_fall_into_their_bucket() -> None:
    histogram = Histogram(ROWS)
    for rows in (1, 1, 2, 3, 4, 1024, 5000):
        histogram.observe(rows)
    pairs, total = histogram.cumulative()
    assert dict(pairs)[1] == 2
    assert dict(pairs)[4] == 5
    assert pairs[-1] == (math.inf, 7)
    assert total == 6035


def test_a_quantile_of_nothing_is_not_known() -> None:
    histogram = Histogram(SECONDS)
    assert histogram.quantile(histogram.counts(), 0.99) is None


def test_a_difference_of_counts_is_what_came_between() -> None:
    histogram = Histogram(SECONDS)
    histogram.observe(1.0)
    before = histogram.counts()
    histogram.observe(0.01)
    assert histogram.quantile(histogram.counts() - before, 0.5) == pytest.approx(0.01, rel=0.01)
