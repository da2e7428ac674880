"""What workloads on running text have in common: a vocabulary, blocks of tokens, and a small GPT."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor, nn

from fulldeck.data import Data
from fulldeck.encoders.tokens import TokenEncoder
from fulldeck.networks.gpt import Gpt
from fulldeck.param import param
from fulldeck.sources.running_text import Parts, hold_out
from fulldeck.sources.token_blocks import token_data, tokens_per_byte
from fulldeck.text_generation import fill_in, generate
from fulldeck.training.token_mean import TokenMean
from fulldeck.workload import TrainingDefaults, Workload, surprise

if TYPE_CHECKING:
    from fulldeck.candidate import Candidate
    from fulldeck.training.batch import Metric

SAMPLES, SAMPLE_TOKENS = 3, 120
"""Sample texts, and tokens that each may have."""


class TokenWorkload(Workload):
    """Text in, and a GPT that foresees the next token.

    Validation and test are the end of the text, never blocks from between those of training.
    """

    data_kind: ClassVar[str] = "tokens"
    task: ClassVar[str] = "language_modelling"
    defaults: ClassVar[TrainingDefaults] = TrainingDefaults(
        epochs=5, batch_size=16, learning_rate=3e-3, weight_decay=0.1
    )

    tokenizer: Literal["bytes", "bpe"] = param(
        "bytes", doc="bytes: nothing to learn or install; bpe: a vocabulary learnt from train (extra text)."
    )
    vocabulary: int = param(1024, ge=300, le=200_000, doc="Tokens of the vocabulary of bpe.")
    length: int = param(128, ge=8, le=8192, doc="Tokens that the model sees at once.")
    width: int = param(128, ge=8, le=8192, doc="Size of a token's vector, a multiple of twice the heads.")
    layers: int = param(4, ge=1, le=96, doc="Transformer blocks.")
    heads: int = param(4, ge=1, le=128, doc="Attention heads of a block.")
    dropout: float = param(0.0, ge=0, lt=1, doc="Share of values set to zero in training.")
    validation: float = param(0.1, gt=0, le=0.4, doc="Share of the text, before the test, for validation.")
    test: float = param(0.1, gt=0, le=0.4, doc="Share of the text, at its end, for the test.")

    @model_validator(mode="after")
    def _fits(self) -> TokenWorkload:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width must be a multiple of twice the heads, got {self.width} for {self.heads} heads"
            )
        return self

    def from_text(self, parts: Parts, notes: list[str]) -> Data:
        """Data from text by split; what is missing is cut off its end, and the vocabulary comes from train."""
        held = hold_out(parts, self.validation, self.test, notes)
        if self.tokenizer == "bpe":
            encoder = TokenEncoder.fit([held["train"]], vocabulary=self.vocabulary, length=self.length)
        else:
            encoder = TokenEncoder(self.length)
        return token_data(self.name, held, encoder, notes)

    def encoder(self, data: Data) -> TokenEncoder:
        """The one that made the blocks."""
        assert isinstance(data.encoder, TokenEncoder)
        return data.encoder

    def model(self, data: Data) -> nn.Module:
        """A GPT of the size that the recipe says."""
        return Gpt(
            self.encoder(data).vocabulary,
            self.length,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            dropout=self.dropout,
        )

    def metrics(self, data: Data) -> Mapping[str, Metric]:
        """Share of tokens foreseen, perplexity of a token, and bits of a byte: comparable between vocabularies."""
        return {**super().metrics(data), "bits_per_byte": bits_per_byte(data)}

    def samples(self, candidate: Candidate) -> list[dict[str, str]]:
        """The beginnings of some test blocks, continued."""
        return written_samples(candidate)


def bits_per_byte(data: Data) -> TokenMean:
    """The code length of the text under the model, in bits for each of its bytes in UTF-8."""
    return TokenMean(surprise, partial(_scaled, tokens_per_byte(data) / math.log(2)))


def written_samples(candidate: Candidate) -> list[dict[str, str]]:
    """Prompts from the test part, with what the candidate writes after them or in place of their masks."""
    encoder, test = candidate.data.encoder, candidate.data.test
    assert isinstance(encoder, TokenEncoder)
    assert test is not None
    rows = np.unique(np.linspace(0, len(test) - 1, SAMPLES).astype(int))
    found = []
    for ids in np.asarray(test.inputs)[rows]:
        if encoder.mask is None:
            prompt = encoder.text(ids[: max(1, encoder.length // 4)])
            found.append({"prompt": prompt, "text": generate(candidate.run, encoder, prompt, SAMPLE_TOKENS)})
        else:
            prompt = encoder.text([*ids[: encoder.length // 2], encoder.mask])
            found.append({"prompt": prompt, "text": fill_in(candidate.run, encoder, prompt)})
    return found


def _scaled(factor: float, value: Tensor) -> Tensor:
    return torch.as_tensor(value * factor)
