import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from fulldeck.encoders import load_encoder
from fulldeck.encoders.tokens import TokenEncoder
from fulldeck.errors import BadInput

TEXT = "Ein Text über Bäume, 日本語 and\ttabs.\n" * 20


def masked(length=8):
    vocabulary = {
        word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])
    }
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return TokenEncoder(length, made.to_str(), mask=4)


@pytest.mark.parametrize("make", [TokenEncoder, lambda n: TokenEncoder.fit([TEXT], vocabulary=300, length=n)])
def test_every_text_is_read_back_as_it_was(make):
    encoder = make(16)
    assert encoder.text(encoder.tokens(TEXT)) == TEXT
    assert encoder.tokens(TEXT).max() < encoder.vocabulary
    again = load_encoder(json.loads(json.dumps(encoder.to_json())))
    assert again.to_json() == encoder.to_json()
    assert again.tokens(TEXT).tolist() == encoder.tokens(TEXT).tolist()


def test_a_learnt_vocabulary_needs_fewer_tokens():
    assert len(TokenEncoder.fit([TEXT], vocabulary=300, length=8).tokens(TEXT)) < len(
        TokenEncoder(8).tokens(TEXT)
    )


def test_of_a_long_prompt_the_end_counts_and_a_short_one_is_padded():
    encoder = TokenEncoder(4)
    rows = encoder.collect([encoder.parse("abcdefg"), encoder.parse("x")])
    assert rows.tolist() == [[100, 101, 102, 103], [120, 0, 0, 0]]
    assert encoder.encode(rows)["input"].dtype == np.int64


def test_an_empty_prompt_is_a_new_line():
    assert TokenEncoder(4).parse("").tolist() == [10]


def test_bytes_that_are_no_text_are_shown_as_such():
    assert TokenEncoder(4).text([104, 255]) == "h�"


def test_a_masked_model_gets_marks_and_needs_a_mask():
    encoder = masked()
    assert [mark.tolist() for mark in encoder.marks] == [[2], [3]]
    assert encoder.parse("a [MASK] b").tolist() == [2, 5, 4, 6, 3]
    assert encoder.text([2, 5, 4, 6, 3, 0]) == "a [MASK] b"
    with pytest.raises(BadInput, match=r"write \[MASK\] in the first 8 tokens"):
        encoder.parse("a b")


def test_what_is_no_text_is_refused():
    for item in (b"\xff", ["a"], {"a": 1}):
        with pytest.raises(BadInput):
            TokenEncoder(4).parse(item)
