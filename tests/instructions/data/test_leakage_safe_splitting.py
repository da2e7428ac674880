import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fulldeck.data import Data, Examples
from fulldeck.errors import BadInput, CannotAct
from fulldeck.instructions.data.leakage_safe_splitting import (
    LeakageSafeSplitting,
    find_overlap,
    split_by_hash,
    split_by_time,
)

PLANTED = 37


@pytest.fixture(scope="module")
def digits() -> Data:
    source = load_digits()
    images = np.rint(source.images * 255 / 16).astype(np.uint8)[:, None]
    examples = Examples(images, source.target.astype(np.int64))
    return Data("digits", "image", "classification", examples, classes=tuple("0123456789"))


def small(inputs, targets, **rest) -> Data:
    examples = Examples(inputs, np.asarray(targets, dtype=np.int64), **rest)
    return Data("small", "tensor", "classification", examples, classes=("a", "b"))


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


def test_every_item_is_in_exactly_one_split(digits):
    split = LeakageSafeSplitting().prepare(digits)
    assert sum(len(part) for part in split.splits().values()) == len(digits.train)
    assert not len(find_overlap(split.train.inputs, split.test.inputs))
    assert not len(find_overlap(split.validation.inputs, split.test.inputs))
    assert any("train" in note and "test" in note for note in split.notes)


def test_every_class_gets_its_share_within_chance(digits):
    split = LeakageSafeSplitting(test=0.2).prepare(digits)
    total = np.bincount(digits.train.targets)
    for share, part in ((0.15, split.validation), (0.2, split.test)):
        spread = np.sqrt(total * share * (1 - share))
        assert (np.abs(np.bincount(part.targets) - share * total) < 4 * spread).all()


def test_no_item_moves_when_the_data_grow_or_are_shuffled(digits):
    before = LeakageSafeSplitting().prepare(digits)
    few = np.random.default_rng(1).permutation(len(digits.train))[:900]
    fewer = Data("digits", "image", "classification", digits.train.take(few), classes=digits.classes)
    after = LeakageSafeSplitting().prepare(fewer)
    for name, part in after.splits().items():
        assert len(find_overlap(part.inputs, before.splits()[name].inputs)) == len(part)


def test_a_larger_share_only_adds_items():
    x = rows(500)
    one, two = split_by_hash(x, validation=0.1, test=0.1), split_by_hash(x, validation=0.2, test=0.3)
    assert set(one["test"]) < set(two["test"])
    assert set(one["validation"]) < set(two["validation"])


def test_another_seed_gives_another_split():
    x = rows(500)
    one, two = split_by_hash(x, seed=0)["test"], split_by_hash(x, seed=1)["test"]
    shared = len(set(one) & set(two))
    assert 0 < shared < 0.4 * len(one)


def test_repeated_items_share_a_split():
    x = rows(300)
    split = LeakageSafeSplitting().prepare(small(np.concatenate([x, x, x]), np.arange(900) % 2))
    assert not len(find_overlap(split.train.inputs, split.test.inputs))
    assert not len(find_overlap(split.train.inputs, split.validation.inputs))


@pytest.fixture
def leaky() -> Data:
    """A given test split of which 37 items are in train too."""
    x = rows(600)
    train = Examples(x, np.arange(600) % 2)
    test = Examples(np.concatenate([x[:PLANTED], rows(100, seed=1)]), np.arange(PLANTED + 100) % 2)
    return Data("leaky", "tensor", "classification", train, test=test, classes=("a", "b"))


def test_a_planted_leak_is_found_and_said_and_the_given_test_kept(leaky):
    split = LeakageSafeSplitting().prepare(leaky)
    in_train = len(find_overlap(split.train.inputs, leaky.test.inputs))
    assert any(
        f"{in_train} of {len(split.train)} training items also occur in test" in n for n in split.notes
    )
    assert split.test is leaky.test
    assert len(split.train) + len(split.validation) == 600
    found = in_train + len(find_overlap(split.validation.inputs, leaky.test.inputs))
    assert found == PLANTED


def test_a_leak_can_be_dropped_from_train(leaky):
    split = LeakageSafeSplitting(on_leak="drop").prepare(leaky)
    assert not len(find_overlap(split.train.inputs, split.test.inputs))
    assert any("dropped from train" in note for note in split.notes)


def test_a_leak_can_stop_the_run(leaky):
    with pytest.raises(BadInput, match=r"training items also occur in test; remove them"):
        LeakageSafeSplitting(on_leak="error").prepare(leaky)


def test_no_leak_is_said_too(digits):
    assert "no overlap between train and the other splits" in LeakageSafeSplitting().prepare(digits).notes


def test_a_leak_in_texts_and_tables_is_found():
    assert find_overlap(["One film", "another"], ["one  FILM "]).tolist() == [0]
    table = {"age": np.array([30, 40]), "job": np.array(["x", "y"])}
    other = {"age": np.array([40.0]), "job": np.array([" y"])}
    assert find_overlap(table, other).tolist() == [1]


def test_groups_stay_together():
    groups = np.repeat(np.arange(100), 6)
    data = small(rows(600), np.arange(600) % 2, groups=groups)
    split = LeakageSafeSplitting(by="group").prepare(data)
    seen = [set(part.groups) for part in split.splits().values()]
    assert sum(map(len, seen)) == 100
    assert min(map(len, seen)) >= 5


def test_a_shared_group_in_a_given_split_is_found():
    def part(groups, seed):
        return Examples(rows(9, seed), np.arange(9) % 2, groups=np.array(groups))

    train, test = part([0, 0, 0, 1, 1, 1, 2, 2, 2], 0), part([0, 4, 4, 4, 4, 4, 5, 5, 5], 1)
    validation = part([7] * 9, 2)
    data = Data("g", "tensor", "classification", train, validation, test, classes=("a", "b"))
    split = LeakageSafeSplitting(by="group", on_leak="drop").prepare(data)
    assert "3 of 9 training items share a group with test: dropped from train" in split.notes
    assert set(split.train.groups) == {1, 2}


def test_by_time_the_latest_items_are_the_test():
    times = np.random.default_rng(0).permutation(1000).astype(np.float64)
    split = LeakageSafeSplitting(by="time").prepare(small(rows(1000), np.arange(1000) % 2, times=times))
    assert split.train.times.max() < split.validation.times.min()
    assert split.validation.times.max() < split.test.times.min()
    assert [len(part) for part in split.splits().values()] == [700, 150, 150]


def test_given_boundaries_in_time_hold_as_data_grow():
    days = np.arange("2026-01-01", "2026-03-01", dtype="datetime64[D]")
    bounds = {"validation_from": "2026-02-01", "test_from": "2026-02-15"}
    one, two = split_by_time(days[:50], **bounds), split_by_time(days, **bounds)
    assert [len(one[name]) for name in ("train", "validation", "test")] == [31, 14, 5]
    assert set(one["test"]) < set(two["test"])
    assert one["train"].tolist() == two["train"].tolist()


def test_equal_times_stay_together():
    parts = split_by_time(np.repeat([1, 2, 3, 4], 25), validation=0.2, test=0.3)
    assert {name: sorted({int(row) // 25 for row in part}) for name, part in parts.items()} == {
        "train": [0],
        "validation": [1],
        "test": [2, 3],
    }


def test_what_a_split_goes_by_must_be_there():
    data = small(rows(100), np.arange(100) % 2)
    with pytest.raises(CannotAct, match="by: group needs the group of every item"):
        LeakageSafeSplitting(by="group").prepare(data)
    with pytest.raises(CannotAct, match="by: time needs the time of every item"):
        LeakageSafeSplitting(by="time").prepare(data)


def test_boundaries_that_make_no_sense_are_refused():
    days = np.arange("2026-01-01", "2026-03-01", dtype="datetime64[D]")
    with pytest.raises(BadInput, match="test_from is 'soon', which is no time like 2026-01-01"):
        split_by_time(days, test_from="soon")
    with pytest.raises(BadInput, match="not before the test"):
        split_by_time(days, validation_from="2026-02-20", test_from="2026-02-01")


def test_too_few_items_of_a_class_are_refused_with_the_remedy():
    targets = np.zeros(400, dtype=np.int64)
    targets[:2] = 1
    with pytest.raises(BadInput, match=r'has 0 of the 2 items of class "b".*min_per_class: 0'):
        LeakageSafeSplitting().prepare(small(rows(400), targets))
    split = LeakageSafeSplitting(min_per_class=0).prepare(small(rows(400), targets))
    assert any('items of class "b"' in note for note in split.notes)


def test_another_seed_is_named_where_it_helps():
    targets = np.zeros(400, dtype=np.int64)
    targets[:12] = 1
    wanting = LeakageSafeSplitting(min_per_class=2)
    with pytest.raises(
        BadInput, match=r"and min_per_class is 2; write seed: \d+, which gives every split"
    ) as caught:
        wanting.prepare(small(rows(400), targets))
    seed = int(re.search(r"seed: (\d+)", str(caught.value))[1])
    wanting.replace(seed=seed).prepare(small(rows(400), targets))


def test_data_too_small_to_split_are_refused():
    with pytest.raises(BadInput, match="got no item"):
        LeakageSafeSplitting().prepare(small(rows(2), [0, 1]))


def test_regression_is_split_by_content_alone():
    data = Data("r", "tensor", "regression", Examples(rows(200), np.zeros(200, dtype=np.float32)))
    assert set(LeakageSafeSplitting().prepare(data).splits()) == {"train", "validation", "test"}


def test_a_missing_test_is_carved_from_train_and_a_given_validation_kept():
    given = Examples(rows(50, seed=1), np.arange(50) % 2)
    data = Data("v", "tensor", "classification", Examples(rows(400), np.arange(400) % 2), validation=given)
    split = LeakageSafeSplitting().prepare(data)
    assert split.validation is given
    assert 50 < len(split.test) < 110


def test_shares_that_leave_nothing_are_refused():
    with pytest.raises(BadInput, match="must be shares that leave some for train"):
        split_by_hash(rows(10), validation=0.5, test=0.5)


def test_a_split_that_is_given_whole_is_audited_only():
    parts = [Examples(rows(40, seed), np.arange(40) % 2) for seed in range(3)]
    data = Data("whole", "tensor", "classification", *parts, classes=("a", "b"))
    split = LeakageSafeSplitting().prepare(data)
    assert split.splits() == data.splits()
    assert split.notes == (
        "split as given: train 40, validation 40, test 40",
        "no overlap between train and the other splits",
    )
