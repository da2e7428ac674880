import numpy as np
import pytest

from fulldeck.errors import BadInput
from fulldeck.quantization.calibration import calibration_rows


def test_every_class_has_its_share():
    targets = np.repeat([0, 1, 2], [600, 300, 100])
    counts = np.bincount(targets[calibration_rows(targets, 100)])
    assert (np.abs(counts - [60, 30, 10]) <= 1).all()


def test_rows_are_distinct_and_the_seed_decides():
    targets = np.arange(500) % 5
    one, again, other = (calibration_rows(targets, 50, seed=seed) for seed in (0, 0, 1))
    assert len(set(one)) == 50
    assert one.tolist() == again.tolist()
    assert one.tolist() != other.tolist()


def test_values_are_drawn_without_classes():
    assert len(calibration_rows(np.random.default_rng(0).normal(size=100), 10, classes=False)) == 10


def test_more_than_there_are_is_refused():
    with pytest.raises(BadInput, match="calibration_samples is 100, and there are 60 training examples"):
        calibration_rows(np.arange(60) % 2, 100)


def test_one_class_is_refused():
    with pytest.raises(BadInput, match="calibration samples are of one class"):
        calibration_rows(np.zeros(60, dtype=np.int64), 20)
