"""Texts: a byte-level BPE vocabulary learnt from the train part. Needs the extra `text`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from fulldeck.encoders import text_of
from fulldeck.errors import extra

if TYPE_CHECKING:
    import tokenizers

PADDING, START = 0, 1
"""Ids: padding, and the token that every text begins with (so that an empty one is not empty)."""
LONGEST = 256
"""Most tokens of a text, unless the recipe says otherwise."""
COVERED = 99
"""The inferred length holds this percentage of the train texts whole."""


@dataclass(frozen=True)
class TextEncoder:
    """Texts to `length` token ids each: cut, or padded with `padding` at the end.

    `tokenizer` is the JSON of Hugging Face's tokenizers library.
    """

    tokenizer: str
    length: int
    padding: int = PADDING
    kind: ClassVar[str] = "text"
    lazy: ClassVar[bool] = False

    @classmethod
    def fit(cls, texts: Sequence[str], *, vocabulary: int = 8000, length: int | None = None) -> Self:
        """Learn at most `vocabulary` tokens from `texts`, the train part (Sennrich et al. 2016, BPE).

        Case does not count. `length` in tokens is inferred if left out: COVERED percent of the texts fit,
        but not more than LONGEST. Raises BadInput if tokenizers is not installed.
        """
        library = extra("tokenizers", "text")
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.normalizer = library.normalizers.Sequence(
            [library.normalizers.NFKC(), library.normalizers.Lowercase()]
        )
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=2,
            special_tokens=["[PAD]", "[START]"],
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        tokenizer.post_processor = library.processors.TemplateProcessing(
            single="[START] $A", special_tokens=[("[START]", START)]
        )
        if length is None:
            lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(list(texts))]
            length = min(int(np.ceil(np.percentile(lengths, COVERED))), LONGEST)
        return cls(tokenizer.to_str(), length)

    @cached_property
    def _tokenizer(self) -> tokenizers.Tokenizer:
        tokenizer: tokenizers.Tokenizer = extra("tokenizers", "text").Tokenizer.from_str(self.tokenizer)
        tokenizer.enable_truncation(self.length)
        tokenizer.enable_padding(length=self.length, pad_id=self.padding)
        return tokenizer

    @property
    def vocabulary(self) -> int:
        """Number of different ids."""
        return self._tokenizer.get_vocab_size()

    def encode(self, inputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """N texts to `input`: N x `length` int64 ids."""
        encodings = self._tokenizer.encode_batch_fast(list(inputs))
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
        return {"input": ids.reshape(len(inputs), self.length)}

    def parse(self, item: bytes | str | Mapping[str, Any] | list[Any]) -> str:
        """A text, or its bytes in UTF-8."""
        return text_of(item)

    def collect(self, items: list[Any]) -> list[str]:
        """The texts as they are."""
        return items

    def to_json(self) -> dict[str, Any]:
        """Length, padding, and all of the tokenizer."""
        return {
            "kind": self.kind,
            "length": self.length,
            "padding": self.padding,
            "tokenizer": json.loads(self.tokenizer),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            json.dumps(value["tokenizer"], ensure_ascii=False), value["length"], value.get("padding", PADDING)
        )
