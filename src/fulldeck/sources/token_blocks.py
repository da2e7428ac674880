"""Running text as examples: blocks of consecutive tokens, with what is to be foreseen in them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fulldeck.data import Data, Examples
from fulldeck.encoders.tokens import TokenEncoder
from fulldeck.errors import BadInput
from fulldeck.sources.running_text import Parts
from fulldeck.training.token_mean import IGNORED

Ids = npt.NDArray[np.int64]
MASKED, AS_MASK, AS_OTHER = 0.15, 0.8, 0.1
"""Share of tokens to be guessed; of these are shown as the mask, or as a random token; the rest as they are."""


def token_data(name: str, parts: Parts, encoder: TokenEncoder, notes: list[str]) -> Data:
    """Data for a language model from the text of each split. Blocks do not overlap, nor cross a split.

    Raises BadInput if a split has no block.
    """
    tokens = {split: encoder.tokens(text) for split, text in parts.items()}
    make: Callable[[Ids, TokenEncoder], Examples] = blocks if encoder.mask is None else masked_blocks
    examples: dict[str, Examples] = {}
    for split, ids in tokens.items():
        examples[split] = make(ids, encoder)
        if not len(examples[split]):
            raise BadInput(
                f"the {split} part has {len(ids):,} tokens, and one block needs {encoder.length + 1:,}; "
                "give more text, a larger share, or a smaller length"
            )
    sizes = ", ".join(f"{split} {len(rows):,}" for split, rows in examples.items())
    notes.append(f"blocks of {encoder.length} tokens: {sizes}; vocabulary {encoder.vocabulary:,}")
    return Data(
        name,
        "tokens",
        "language_modelling",
        examples["train"],
        examples["validation"],
        examples["test"],
        encoder=encoder,
        notes=tuple(notes),
    )


def tokens_per_byte(data: Data) -> float:
    """Of the validation part: what turns a figure per token into one per byte of UTF-8."""
    assert isinstance(data.encoder, TokenEncoder)
    assert data.validation is not None
    ids = np.asarray(data.validation.inputs).reshape(-1)
    return len(ids) / max(1, len(data.encoder.text(ids).encode()))


def blocks(ids: Ids, encoder: TokenEncoder) -> Examples:
    """Consecutive blocks of `length` ids; the target of each is the id that follows it."""
    count = max(0, (len(ids) - 1) // encoder.length)
    end = count * encoder.length
    shape = (count, encoder.length)
    return Examples(ids[:end].reshape(shape), ids[1 : end + 1].reshape(shape))


def masked_blocks(ids: Ids, encoder: TokenEncoder, seed: int = 0) -> Examples:
    """Blocks between the tokenizer's marks, in which some tokens are hidden and to be guessed.

    Which ones is drawn once (Devlin et al. 2018, arXiv:1810.04805), at least one in each block.
    """
    assert encoder.mask is not None
    before, after = encoder.marks
    inner = encoder.length - len(before) - len(after)
    count = len(ids) // inner
    random = np.random.default_rng(seed)
    body = ids[: count * inner].reshape(count, inner)
    chosen = random.random(body.shape) < MASKED
    chosen[np.arange(count), random.integers(inner, size=count)] = True
    fate = random.random(body.shape)
    other = random.integers(encoder.vocabulary, size=body.shape)
    hidden = np.where(fate < AS_MASK, encoder.mask, np.where(fate < AS_MASK + AS_OTHER, other, body))
    shown = np.where(chosen, hidden, body)
    wanted = np.where(chosen, body, IGNORED)

    def between(rows: Ids, left: Ids, right: Ids) -> Ids:
        return np.concatenate([np.tile(left, (count, 1)), rows, np.tile(right, (count, 1))], axis=1)

    nothing = np.full_like(before, IGNORED), np.full_like(after, IGNORED)
    return Examples(between(shown, before, after), between(wanted, *nothing))
