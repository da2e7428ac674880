import json

import numpy as np
import pytest

from fulldeck.encoders import load_encoder
from fulldeck.encoders.text import PADDING, START, TextEncoder
from fulldeck.errors import BadInput

TEXTS = ["the film is good", "the film is bad", "a good cast", "a bad cast", "good good good"] * 3


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder.fit(TEXTS, vocabulary=300)


def ids(encoder, *texts):
    return encoder.encode(list(texts))["input"]


def test_ids_are_padded_and_cut_to_one_length(encoder):
    encoded = ids(encoder, "the film", "the film is good " * 50)
    assert encoded.shape == (2, encoder.length)
    assert encoded.dtype == np.int64
    assert encoded[:, 0].tolist() == [START, START]
    assert encoded[0, -1] == PADDING
    assert encoded[1, -1] != PADDING
    assert encoded.max() < encoder.vocabulary


def test_length_holds_nearly_all_train_texts_whole(encoder):
    assert ids(encoder, "the film is good")[0, -1] != PADDING
    assert TextEncoder.fit(TEXTS, vocabulary=300, length=3).length == 3
    assert TextEncoder.fit(["word " * 5000] * 2, vocabulary=300).length == 256


def test_case_does_not_count_and_any_script_can_be_written(encoder):
    np.testing.assert_array_equal(ids(encoder, "THE Film"), ids(encoder, "the film"))
    assert (ids(encoder, "фильм 电影 🎬")[0] != START).sum() > 3
    assert not np.array_equal(ids(encoder, "电"), ids(encoder, "影"))


def test_an_empty_text_is_not_all_padding(encoder):
    assert ids(encoder, "")[0].tolist() == [START] + [PADDING] * (encoder.length - 1)


def test_no_texts_give_no_rows(encoder):
    assert encoder.encode([])["input"].shape == (0, encoder.length)


def test_the_same_texts_give_the_same_vocabulary(encoder):
    assert TextEncoder.fit(TEXTS, vocabulary=300) == encoder


def test_survives_json(encoder):
    copy = load_encoder(json.loads(json.dumps(encoder.to_json())))
    assert copy.vocabulary == encoder.vocabulary
    np.testing.assert_array_equal(ids(copy, "a good FILM!"), ids(encoder, "a good FILM!"))


def test_parse_takes_text_and_utf8(encoder):
    assert encoder.parse("naïve") == encoder.parse("naïve".encode()) == "naïve"


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (["a"], "send a text"),
        ({"text": "a"}, "send a text"),
        (b"\xff\xfe", "not valid UTF-8"),
        ("\ud800", "not valid UTF-8"),
    ],
)
def test_refuses_what_is_no_text(encoder, item, words):
    with pytest.raises(BadInput, match=words):
        encoder.parse(item)
