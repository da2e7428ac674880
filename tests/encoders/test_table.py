import json

import numpy as np
import pytest

from fulldeck.encoders import load_encoder
from fulldeck.encoders.table import LIMIT, TableEncoder
from fulldeck.errors import BadInput

JOBS = np.array(["a"] * 6 + ["b"] * 5 + [None] * 5 + ["rare"], dtype=object)


@pytest.fixture
def encoder():
    return TableEncoder.fit({"age": np.array([10.0, 20.0, np.nan, 60.0] * 4 + [20.0]), "job": JOBS})


def encode(encoder, **row):
    return encoder.encode(encoder.collect([encoder.parse(row)]))["input"][0].tolist()


def test_numbers_are_filled_standardised_and_marked_as_missing(encoder):
    known = np.array([10.0, 20.0, 20.0, 60.0] * 4 + [20.0])
    row = encode(encoder, age=60, job="a")
    assert row[0] == pytest.approx((60 - known.mean()) / known.std(), rel=1e-6)
    assert row[1] == 0
    missing = encode(encoder, age=None, job="a")
    assert missing[0] == pytest.approx((20 - known.mean()) / known.std(), rel=1e-6)
    assert missing[1] == 1


def test_categories_have_a_place_each_and_the_unknown_share_the_first(encoder):
    assert encode(encoder, age=1, job="a")[2:] == [0, 1, 0, 0]
    assert encode(encoder, age=1, job="b")[2:] == [0, 0, 1, 0]
    assert encode(encoder, age=1, job=None)[2:] == [0, 0, 0, 1]
    assert encode(encoder, age=1, job="rare")[2:] == [1, 0, 0, 0]
    assert encode(encoder, age=1, job="never seen")[2:] == [1, 0, 0, 0]


def test_a_category_that_was_not_learnt_is_remarked_on(encoder):
    assert encoder.remarks(encoder.parse({"age": 1, "job": "a"})) == []
    assert encoder.remarks(encoder.parse({"age": 1, "job": None})) == []
    said = encoder.remarks(encoder.parse({"age": 1, "job": "never seen"}))
    assert said == ['column "job": the model does not know "never seen"; it knows a, b']


def test_the_example_is_a_row_that_can_be_sent(encoder):
    assert encoder.example() == {"age": 20.0, "job": "a"}
    assert encoder.remarks(encoder.parse(encoder.example())) == []


def test_texts_of_numbers_and_spellings_of_missing_are_understood(encoder):
    assert encode(encoder, age=" 60 ", job=" a ") == encode(encoder, age=60, job="a")
    assert encode(encoder, age="?", job="") == encode(encoder, age=None, job=None)


def test_a_far_outlier_is_clipped_and_stays_finite(encoder):
    assert encode(encoder, age=1e300, job="a")[0] == LIMIT
    assert encode(encoder, age=-1e300, job="a")[0] == -LIMIT


def test_constant_and_empty_columns_do_no_harm():
    encoder = TableEncoder.fit({"same": np.full(3, 7.0), "none": np.full(3, np.nan)})
    assert encode(encoder, same=7, none=None) == [0, 0, 1]


def test_survives_json(encoder):
    copy = load_encoder(json.loads(json.dumps(encoder.to_json())))
    assert copy == encoder
    assert encode(copy, age=5, job=None) == encode(encoder, age=5, job=None)


def test_width_is_that_of_the_encoded_rows(encoder):
    assert encoder.encode({"age": np.zeros(2), "job": JOBS[:2]})["input"].shape == (2, encoder.width)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ([1, 2], "object with the columns age, job"),
        ({"age": 1, "jop": "a"}, 'unknown column "jop"; did you mean job'),
        ({"age": 1}, 'column "job" is absent; send null'),
        ({"age": "old", "job": "a"}, 'column "age" must be a number or null'),
        ({"age": [1], "job": "a"}, 'column "age" must be a number or null'),
        ({"age": "inf", "job": "a"}, "finite"),
        ({"age": 10**400, "job": "a"}, 'column "age" must be a number'),
        ({"age": 1, "job": {"x": 1}}, 'column "job" must be a text or null'),
    ],
)
def test_refuses_rows_that_do_not_fit(encoder, item, words):
    with pytest.raises(BadInput, match=words):
        encoder.parse(item)
