"""The plain split, for data that nobody has split."""

from __future__ import annotations

import numpy as np

from fulldeck.data import Data, Examples
from fulldeck.pipeline.splitting import with_default_split


def data(**splits: Examples) -> Data:
    return Data("numbers", "tensor", "classification", examples(100), classes=("a", "b"), **splits)


def examples(count: int) -> Examples:
    return Examples(np.arange(count), np.arange(count) % 2)


def test_every_example_is_in_one_part_and_the_user_is_told() -> None:
    split = with_default_split(data(), seed=0)
    parts = [part.inputs for part in split.splits().values()]
    assert [len(part) for part in parts] == [80, 10, 10]
    assert sorted(np.concatenate(parts)) == list(range(100))
    assert split.notes == ("validation and test: 10 examples each, drawn at random from train (seed 0)",)
    assert list(with_default_split(data(), seed=0).train.inputs) == list(split.train.inputs)


def test_a_given_test_part_is_kept_and_only_validation_is_drawn() -> None:
    split = with_default_split(data(test=examples(7)), seed=0)
    assert split.test is not None
    assert len(split.test) == 7
    assert split.validation is not None
    assert len(split.train) + len(split.validation) == 100


def test_data_that_is_split_already_is_left_alone() -> None:
    whole = data(test=examples(7), validation=examples(5))
    assert with_default_split(whole, seed=0) is whole
