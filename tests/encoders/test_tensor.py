import json

import numpy as np
import pytest

from fulldeck.encoders import load_encoder
from fulldeck.encoders.tensor import TensorEncoder
from fulldeck.errors import BadInput


def test_passes_arrays_through_as_the_models_type():
    encoder = TensorEncoder((2,), "float32")
    encoded = encoder.encode(np.array([[1, 2], [3, 4]]))["input"]
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded, [[1, 2], [3, 4]])


def test_items_as_a_person_sends_them():
    encoder = TensorEncoder((2, 1), "int64")
    items = encoder.collect([encoder.parse([[1], [2]]), encoder.parse([[3], [4]])])
    assert items.shape == (2, 2, 1)
    assert items.dtype == np.int64


def test_survives_json():
    encoder = TensorEncoder((3, 4), "int64")
    assert load_encoder(json.loads(json.dumps(encoder.to_json()))) == encoder


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (b"x", "send a nested list of numbers"),
        ([1, 2, 3], r"must have shape \[2\], got \[3\]"),
        ([1, "a"], "nested list of numbers of one shape"),
        ([1, float("inf")], "finite"),
    ],
)
def test_refuses_other_items(item, words):
    with pytest.raises(BadInput, match=words):
        TensorEncoder((2,)).parse(item)


def test_an_unknown_kind_of_encoder_is_refused():
    with pytest.raises(
        BadInput, match="unknown encoder kind 'sound'; there is image, table, text, tokens, tensor"
    ):
        load_encoder({"kind": "sound"})
