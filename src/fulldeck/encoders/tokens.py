"""Running text as token ids, for models that foresee tokens: bytes, or any vocabulary of `tokenizers`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from fulldeck.encoders import text_of
from fulldeck.errors import BadInput, extra

if TYPE_CHECKING:
    import tokenizers

Ids = npt.NDArray[np.int64]
NOTHING = "\n"
"""What an empty prompt is taken for: a model needs something to go on from."""


@dataclass(frozen=True)
class TokenEncoder:
    """A text to at most `length` token ids, and back.

    `tokenizer` is the JSON of Hugging Face's tokenizers library (extra `text`); None: ids are bytes. With
    `mask`, the id that stands for a token to be guessed, the model is a masked one: a text is cut at its
    end and gets the tokenizer's marks. Without, it continues a text, of which the last tokens count.
    """

    length: int
    tokenizer: str | None = None
    mask: int | None = None
    padding: int = 0
    kind: ClassVar[str] = "tokens"
    lazy: ClassVar[bool] = True

    @classmethod
    def fit(cls, texts: Iterable[str], *, vocabulary: int, length: int) -> Self:
        """Learn a byte-level BPE vocabulary (Sennrich et al. 2016) of `vocabulary` tokens from `texts`.

        Every text is written and read back without loss. Raises BadInput if tokenizers is not installed.
        """
        library = extra("tokenizers", "text")
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=2,
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(length, tokenizer.to_str())

    @property
    def vocabulary(self) -> int:
        """Number of different ids."""
        return 256 if self._tokenizer is None else self._tokenizer.get_vocab_size()

    def tokens(self, text: str) -> Ids:
        """All ids of `text`, without marks."""
        if self._tokenizer is None:
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    @property
    def marks(self) -> tuple[Ids, Ids]:
        """The ids that the tokenizer puts before and after a text."""
        whole = [] if self._tokenizer is None else self._tokenizer.encode("a").ids
        inner = [place for place, one in enumerate(whole) if one not in self._marks]
        first, last = (inner[0], inner[-1]) if inner else (0, -1)
        return np.array(whole[:first], dtype=np.int64), np.array(whole[last + 1 :], dtype=np.int64)

    def text(self, ids: Sequence[int] | Ids) -> str:
        """What `ids` say; marks and padding are left out, a mask is shown. Bytes that are no UTF-8 are `�`."""
        numbers = [int(one) for one in ids]
        if self._tokenizer is None:
            return bytes(numbers).decode("utf-8", errors="replace")
        shown = [one for one in numbers if one == self.mask or one not in self._marks]
        return self._tokenizer.decode(shown, skip_special_tokens=False)

    def encode(self, inputs: Any) -> dict[str, npt.NDArray[Any]]:
        """N x `length` ids to `input`: the same."""
        return {"input": np.ascontiguousarray(inputs, dtype=np.int64)}

    def parse(self, item: bytes | str | Mapping[str, Any] | list[Any]) -> Ids:
        """A prompt as 1 to `length` ids. Raises BadInput if a masked model gets a text without a mask."""
        text = text_of(item)
        if self.mask is None or self._tokenizer is None:
            return self.tokens(text or NOTHING)[-self.length :]
        encoding = self._tokenizer.encode(text)
        encoding.truncate(self.length)
        if self.mask not in encoding.ids:
            mark = self._tokenizer.id_to_token(self.mask)
            raise BadInput(f"write {mark} in the first {self.length} tokens, where one is to be found")
        return np.array(encoding.ids, dtype=np.int64)

    def collect(self, items: list[Any]) -> Ids:
        """Prompts as rows of `length` ids, padded at the end."""
        rows = np.full((len(items), self.length), self.padding, dtype=np.int64)
        for row, ids in zip(rows, items, strict=True):
            row[: len(ids)] = ids
        return rows

    def to_json(self) -> dict[str, Any]:
        """All fields, the tokenizer as JSON in JSON."""
        return {
            "kind": self.kind,
            "length": self.length,
            "tokenizer": None if self.tokenizer is None else json.loads(self.tokenizer),
            "mask": self.mask,
            "padding": self.padding,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        described = value["tokenizer"]
        tokenizer = None if described is None else json.dumps(described, ensure_ascii=False)
        return cls(value["length"], tokenizer, value["mask"], value["padding"])

    @cached_property
    def _tokenizer(self) -> tokenizers.Tokenizer | None:
        if self.tokenizer is None:
            return None
        made: tokenizers.Tokenizer = extra("tokenizers", "text").Tokenizer.from_str(self.tokenizer)
        made.no_truncation()
        made.no_padding()
        return made

    @cached_property
    def _marks(self) -> frozenset[int]:
        added = {} if self._tokenizer is None else self._tokenizer.get_added_tokens_decoder()
        return frozenset(number for number, token in added.items() if token.special)
